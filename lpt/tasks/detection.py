"""Detection: SSD's loss, boxes out of scores, and mean average precision at IoU 0.5.

N images, M objects an image, A default boxes, C classes without the background, K found boxes an image. Boxes are
(left, top, right, bottom) in pixels of the network's input.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..data.detection import PADDING, DetectionData
from ..errors import UserError
from .task import Task, at_least_one, of_all_ranks

OVERLAP = 0.5  # a default box of at least this IoU with an object is to find it: Liu et al. 2016, section 2.2
NEGATIVES = 3  # default boxes of the background that are learned, for each that finds an object
VARIANCES = (10.0, 10.0, 5.0, 5.0)  # factors on the offsets, as SSD's own code has them
MOST_CANDIDATES = 400  # boxes a class and image that enter the suppression
BACKGROUND, IGNORED = 0, -1  # targets of default boxes that find nothing

Found = dict[str, Tensor]  # "boxes" (K, 4), "scores" (K,), "labels" (K,)


class Detection(Task):
    """Batches are as of `lpt.data.detection.Scenes`; the model is an `SSDLite`, or has its `default_boxes` and forward.

    Loss: smooth L1 of the offsets plus cross-entropy of the classes, over the number of default boxes that find an
    object; of the others, `NEGATIVES` times as many are learned in each image, those of the largest loss. Default
    boxes on difficult objects are not learned. An image without objects adds nothing.

    Metrics: `loss`, `box_loss`, `class_loss`; in validation `map50`, COCO's mean average precision at IoU 0.5 (101
    points of recall, difficult objects as its crowds: what is found on them counts neither way), from 0 to 1.

    Args:
        score: least score of a found box.
        overlap: of two found boxes of a class whose IoU is above this, the one of lower score is dropped.
        most: found boxes an image.
        map_every: epochs between figures of `map50`; the last epoch has one in any case.
        more: as of `Task`.

    Raises:
        UserError: values that are not possible; a model that finds no boxes, or is for another size; as of `Task`.
    """

    monitor, more_is_better = "val/map50", True
    model: Any
    reads = DetectionData

    def __init__(
        self,
        model: Any,
        data: DetectionData,
        *args: Any,
        score: float = 0.01,
        overlap: float = 0.45,
        most: int = 200,
        map_every: int = 1,
        **more: Any,
    ) -> None:
        for key, value in {"score": score, "overlap": overlap}.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise UserError(f"task.{key}={value!r}: give a number from 0 to below 1")
        at_least_one(most=most, map_every=map_every)
        super().__init__(model, data, *args, **more)
        if not hasattr(model, "default_boxes"):
            raise UserError(f"{type(model).__name__} finds no boxes: choose model=ssdlite for task=detection")
        if model.size != data.size:
            raise UserError(
                f"model.size={model.size} and data.size={data.size} differ: give model.size, which data.size follows"
            )
        if self.batch_size < 2:
            raise UserError("trainer.batch_size=1: give at least 2 (the smallest map is one pixel, and normalized)")
        from torchvision.models.detection._utils import BoxCoder, SSDMatcher  # slow to import

        self.coder, self.matcher = BoxCoder(VARIANCES), SSDMatcher(OVERLAP)
        self.score, self.overlap, self.most, self.map_every = score, overlap, most, map_every
        self.found: dict[int, tuple[Found, Found]] = {}  # by image: what was found, and what was there

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self._loss(self.model(batch[0]), batch)

    def size(self, batch: Any) -> int:
        return int((self._matched(batch)[0] > 0).sum())

    def evaluate(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        scores, offsets = self.model(batch[0])
        if self.due(self.map_every):
            rows = zip(*batch[1:4], strict=True)
            for index, found, (boxes, labels, difficult) in zip(
                batch[4].tolist(), self.boxes(scores, offsets), rows, strict=True
            ):
                real = labels != PADDING
                there = {"boxes": boxes[real], "labels": labels[real], "iscrowd": difficult[real].long()}
                self.found[index] = _cpu(found), _cpu(there)
        return self._loss((scores, offsets), batch)

    def collected(self) -> dict[str, float]:
        if not self.due(self.map_every):
            return {}
        found, objects = zip(*of_all_ranks(self.found).values(), strict=True)
        self.found = {}
        return {"map50": map50(list(found), list(objects))}

    @torch.no_grad()
    def boxes(self, scores: Tensor, offsets: Tensor) -> list[Found]:
        """What the network finds: from its scores (N, A, C + 1) and offsets (N, A, 4), for each image its best boxes.

        Labels are 0 .. C - 1, as in the data; the best box comes first.
        """
        from torchvision.ops import batched_nms

        found = []
        for shares, shifts in zip(scores.float().softmax(-1)[:, :, 1:], offsets.float(), strict=True):
            boxes = self.coder.decode_single(shifts, self.model.default_boxes).clamp(0, self.model.size)
            best = shares.topk(min(MOST_CANDIDATES, len(shares)), dim=0)  # (candidates, C) each
            labels = torch.arange(shares.shape[1], device=shares.device).expand_as(best.indices)
            kept = best.values > self.score
            values, boxes, labels = best.values[kept], boxes[best.indices[kept]], labels[kept]
            chosen = batched_nms(boxes, values, labels, self.overlap)[: self.most]
            found.append({"boxes": boxes[chosen], "scores": values[chosen], "labels": labels[chosen]})
        return found

    def targets(self, boxes: Tensor, labels: Tensor, difficult: Tensor) -> tuple[Tensor, Tensor]:
        """What each default box is to find in one image.

        Args:
            boxes: (M, 4).
            labels: (M,), 0 .. C - 1, or `PADDING`.
            difficult: (M,).

        Returns:
            classes (A,): `BACKGROUND`, 1 .. C, or `IGNORED`; and for each default box the object's box (A, 4), which
            means nothing where there is none.
        """
        from torchvision.ops import box_iou

        own = self.model.default_boxes
        classes = labels.new_full((len(own),), BACKGROUND)
        aims = own
        hard = (labels != PADDING) & difficult
        if hard.any():
            classes[(box_iou(boxes[hard], own) >= OVERLAP).any(0)] = IGNORED
        real = (labels != PADDING) & ~difficult
        if real.any():
            match = self.matcher(box_iou(boxes[real], own))
            classes = torch.where(match >= 0, labels[real][match.clamp_min(0)] + 1, classes)
            aims = boxes[real][match.clamp_min(0)]
        return classes, aims

    def _loss(self, output: tuple[Tensor, Tensor], batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        scores, offsets = output
        classes, aims = self._matched(batch)
        positive = classes > 0
        count = positive.sum().clamp_min(1)
        own = self.model.default_boxes.expand_as(aims)[positive]
        wanted = self.coder.encode_single(aims[positive], own)
        box_loss = functional.smooth_l1_loss(offsets[positive], wanted, reduction="sum") / count
        each = functional.cross_entropy(scores.transpose(1, 2), classes, reduction="none", ignore_index=IGNORED)
        negative = hardest(each.detach(), classes == BACKGROUND, NEGATIVES * positive.sum(1))
        class_loss = each[positive | negative].sum() / count
        return box_loss + class_loss, {"box_loss": box_loss.detach(), "class_loss": class_loss.detach()}

    def _matched(self, batch: Any) -> tuple[Tensor, Tensor]:
        """`targets` of all images: (N, A), (N, A, 4)."""
        images = [self.targets(*objects) for objects in zip(*batch[1:4], strict=True)]
        classes, aims = (torch.stack(part) for part in zip(*images, strict=True))
        return classes, aims


def hardest(loss: Tensor, allowed: Tensor, counts: Tensor) -> Tensor:
    """In each row the `counts` largest of `loss` (N, A) where `allowed` (N, A), as a mask (N, A)."""
    order = loss.masked_fill(~allowed, -math.inf).argsort(1, descending=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(loss.shape[1], device=loss.device).expand_as(order))
    return (rank < counts[:, None]) & allowed


def _cpu(parts: Found) -> Found:
    return {name: part.cpu() for name, part in parts.items()}


def map50(found: list[Found], objects: list[Found]) -> float:
    """COCO's mean average precision at IoU 0.5 over the classes of `objects`, from 0 to 1.

    Args:
        found: an image each, as `Detection.boxes` gives them.
        objects: an image each: "boxes" (M, 4), "labels" (M,), and "iscrowd" (M,), 1 for what counts neither way.
    """
    from torchmetrics.detection import MeanAveragePrecision  # slow to import, and needed here only

    metric = MeanAveragePrecision(
        iou_thresholds=[0.5], max_detection_thresholds=[1, 10, 10**6], backend="pycocotools", sync_on_compute=False
    )
    metric.warn_on_many_detections = False
    metric.update(found, objects)
    return metric.compute()["map_50"].item()
