"""Detection: network, loss and boxes against torchvision's, map50 against VOC's definition, and whole runs."""

from __future__ import annotations

import math
import runpy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from corpora import write_voc
from running import ROOT, metrics, run_folder, summary, train
from torch import Tensor, nn

from lpt.data import digit_scenes, digits, voc
from lpt.data.detection import PADDING
from lpt.dataflow.ops import Add
from lpt.errors import UserError
from lpt.models import ResNet, SSDLite
from lpt.tasks.classification import Classification
from lpt.tasks.detection import BACKGROUND, IGNORED, Detection, hardest, map50
from lpt.tasks.schedules import constant

evaluate = runpy.run_path(str(ROOT / "scripts" / "evaluate.py"))["main"]
COMMON: dict[str, Any] = {
    "optimizer": partial(torch.optim.SGD, lr=0.1), "scheduler": constant, "seed": 0, "batch_size": 4,
    "eval_batch_size": 3,
}  # fmt: skip


def narrow(classes: int = 2, size: int = 64) -> SSDLite:
    torch.manual_seed(0)
    return SSDLite(classes, width=0.1, size=size)


@pytest.fixture
def task(tmp_path: Path) -> Detection:
    return Detection(narrow(), voc(root=str(write_voc(tmp_path)), size=64), **COMMON)


# -- the network -------------------------------------------------------------------------------------------------------


def published() -> nn.Module:
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    return mobilenet_v2()


def test_the_backbone_is_torchvisions_and_takes_its_weights(tmp_path: Path) -> None:
    original = published().eval()
    files = {"plain.pt": original.state_dict()}
    files["run.ckpt"] = {"state_dict": {f"model.{k}": v for k, v in original.state_dict().items()}}
    x = torch.randn(2, 3, 64, 64)
    for name, state in files.items():
        torch.save(state, tmp_path / name)
        model = SSDLite(3, size=64, pretrained=str(tmp_path / name)).eval()
        maps = model.maps(x)
        assert torch.equal(maps[1], original.features(x))
        assert torch.equal(maps[0], original.features[14].conv[0](original.features[:14](x)))
    mine, theirs = ({k for k in m.state_dict() if k.startswith("features.")} for m in (model, original))
    assert mine == theirs
    (maps[1].sum() + maps[0].square().sum()).backward()
    assert all(p.grad is not None for p in model.features.parameters())


@pytest.mark.parametrize(("size", "sides"), [(320, [20, 10, 5, 3, 2, 1]), (64, [4, 2, 1, 1, 1, 1])])
def test_shapes_sums_and_default_boxes(size: int, sides: list[int]) -> None:
    model = narrow(5, size)
    count = 6 * sum(side**2 for side in sides)
    scores, offsets = model(torch.randn(2, 3, size, size))
    assert scores.shape == (2, count, 6) and offsets.shape == (2, count, 4)
    assert [m.shape[-1] for m in model.maps(torch.randn(2, 3, size, size))] == sides
    assert [type(m) for m in model.modules()].count(Add) == 11  # 10 at width 1: there one block more widens
    spans = model.default_boxes[:, 2:] - model.default_boxes[:, :2]
    assert model.default_boxes.shape == (count, 4)
    torch.testing.assert_close(spans[0], torch.full((2,), 0.2 * size))
    assert "default_boxes" not in model.state_dict()
    assert all(isinstance(model.get_submodule(name), nn.Conv2d) for name in model.last_products)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"classes": 0}, "classes=0"),
        ({"width": 0}, "width=0"),
        ({"size": 16}, "size=16"),
        ({"smallest": 0.9, "largest": 0.5}, "smallest=0.9"),
        ({"pretrained": "/nowhere.pt"}, "/nowhere.pt cannot be loaded"),
    ],
    ids=str,
)
def test_ssdlite_refuses(arguments: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        SSDLite(**{"classes": 3, "width": 0.1, "size": 64, **arguments})


def test_weights_that_do_not_fit_are_told(tmp_path: Path) -> None:
    torch.save(published().state_dict(), tmp_path / "wide.pt")
    torch.save({"fc.weight": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"wide\.pt cannot be loaded.*model\.width"):
        SSDLite(3, width=0.5, size=64, pretrained=str(tmp_path / "wide.pt"))
    with pytest.raises(UserError, match="no `features` of a MobileNetV2"):
        SSDLite(3, size=64, pretrained=str(tmp_path / "other.pt"))
    with pytest.raises(ValueError, match="made for size=64"):
        narrow()(torch.zeros(1, 3, 32, 32))


# -- loss --------------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_torchvisions_ssd(task: Detection) -> None:
    from torchvision.models.detection.ssd import SSD

    images, boxes, labels, _, index = task.data.train.batch(torch.arange(4), None)
    scores, offsets = task.model(images)
    objects = [
        {"boxes": own[kinds != PADDING], "labels": kinds[kinds != PADDING] + 1}
        for own, kinds in zip(boxes, labels, strict=True)
    ]
    anchors = [task.model.default_boxes] * 4
    from torchvision.ops import box_iou

    none = torch.full((len(anchors[0]),), -1)
    matched = [task.matcher(box_iou(o["boxes"], anchors[0])) if len(o["labels"]) else none for o in objects]
    ssd: Any = SimpleNamespace(box_coder=task.coder, neg_to_pos_ratio=3.0)
    heads = {"bbox_regression": offsets, "cls_logits": scores}
    expected = SSD.compute_loss(ssd, objects, heads, anchors, matched)
    loss, parts = task.loss((images, boxes, labels, torch.zeros_like(labels, dtype=torch.bool), index))
    torch.testing.assert_close(parts["box_loss"], expected["bbox_regression"].detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(parts["class_loss"], expected["classification"].detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss.detach(), parts["box_loss"] + parts["class_loss"])


def test_what_default_boxes_are_to_find(task: Detection) -> None:
    own = task.model.default_boxes
    exact = own[[3, 70]] + torch.tensor([0.5, 0, 0, 0])
    labels, hard = torch.tensor([1, 0, PADDING]), torch.tensor([False, True, False])
    classes, aims = task.targets(torch.cat([exact, torch.zeros(1, 4)]), labels, hard)
    assert classes[3] == 2 and torch.equal(aims[3], exact[0])
    assert classes[70] == IGNORED and set(classes.tolist()) <= {BACKGROUND, IGNORED, 2}
    nothing, _ = task.targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool))
    assert (nothing == BACKGROUND).all()
    small = torch.tensor([[30.0, 30, 33, 33]])  # overlaps no default box by half, and gets one all the same
    classes, _ = task.targets(small, torch.tensor([0]), torch.tensor([False]))
    assert (classes == 1).sum() == 1


def test_difficult_objects_and_empty_images_teach_nothing(task: Detection) -> None:
    images, boxes, labels, difficult, index = task.data.train.batch(torch.tensor([3, 1]), None)
    assert (labels[0] == PADDING).all() and difficult[1].tolist() == [False, True]
    scores, offsets = (part.detach().requires_grad_() for part in task.model(images))
    loss, _ = task._loss((scores, offsets), (images, boxes, labels, difficult, index))
    loss.backward()
    assert not scores.grad[0].any() and not offsets.grad[0].any() and scores.grad[1].any()
    ignored = task.targets(boxes[1], labels[1], difficult[1])[0] == IGNORED
    assert not scores.grad[1][ignored].any()
    empty = task.data.train.batch(torch.tensor([3, 3]), None)
    loss, _ = task.loss(empty)
    loss.backward()
    assert loss == 0 and all(p.grad.isfinite().all() for p in task.model.parameters()) and task.size(empty) == 0


def test_the_hardest_are_taken() -> None:
    loss = torch.tensor([[1.0, 5, 3, 4], [2, 2, 9, 1]])
    allowed = torch.tensor([[True, False, True, True], [True, True, True, True]])
    taken = hardest(loss, allowed, torch.tensor([2, 0]))
    assert taken.tolist() == [[False, False, True, True], [False] * 4]
    assert hardest(loss, allowed, torch.tensor([9, 9])).equal(allowed)


def test_the_loss_does_not_depend_on_the_batch(task: Detection) -> None:
    task.eval()
    means = []
    for size in (1, 4):
        batches = [task.data.train.batch(part, None) for part in torch.arange(4).split(size)]
        steps = [task.validation_step(batch, 0) for batch in batches]
        means.append(sum(s["loss"] * s["size"] for s in steps) / sum(s["size"] for s in steps))
    torch.testing.assert_close(*means)


# -- boxes and their precision -----------------------------------------------------------------------------------------


def test_boxes_are_those_of_torchvisions_ssd(task: Detection) -> None:
    from torchvision.models.detection.ssd import SSD

    torch.manual_seed(1)
    count = len(task.model.default_boxes)
    scores, offsets = 2 * torch.randn(2, count, 3), torch.randn(2, count, 4)
    ssd: Any = SimpleNamespace(
        box_coder=task.coder, score_thresh=0.01, topk_candidates=400, nms_thresh=0.45, detections_per_img=200
    )
    heads = {"bbox_regression": offsets, "cls_logits": scores}
    expected = SSD.postprocess_detections(ssd, heads, [task.model.default_boxes] * 2, [(64, 64)] * 2)
    for mine, theirs in zip(task.boxes(scores, offsets), expected, strict=True):
        assert 20 < len(mine["scores"]) <= 200 and (mine["scores"].diff() <= 0).all()
        torch.testing.assert_close(mine["boxes"], theirs["boxes"])
        torch.testing.assert_close(mine["scores"], theirs["scores"])
        assert torch.equal(mine["labels"] + 1, theirs["labels"])


def test_perfect_offsets_give_the_objects_back(task: Detection) -> None:
    _, boxes, labels, difficult, _ = task.data.train.batch(torch.tensor([0]), None)
    classes, aims = task.targets(boxes[0], labels[0], difficult[0])
    scores = 20 * nn.functional.one_hot(classes, 3).float()[None]
    (found,) = task.boxes(scores, task.coder.encode_single(aims, task.model.default_boxes)[None])
    best = found["scores"] > 0.9
    order = found["labels"][best].argsort()
    torch.testing.assert_close(found["boxes"][best][order], boxes[0].flip(0), atol=1e-3, rtol=0)


def iou(a: Tensor, b: Tensor) -> float:
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp_min(0)
    common = sides.prod()
    return float(common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common))


def voc_map50(found: list[dict[str, Tensor]], objects: list[dict[str, Tensor]]) -> float:
    """The definition of the VOC development kit since 2010: area under the precision made falling, class by class."""
    precisions = []
    for kind in sorted({int(k) for o in objects for k in o["labels"][o["iscrowd"] == 0]}):
        total = sum(int(((o["labels"] == kind) & (o["iscrowd"] == 0)).sum()) for o in objects)
        ranked = sorted(
            ((float(s), i, b) for i, f in enumerate(found) for s, b, k in
             zip(f["scores"], f["boxes"], f["labels"], strict=True) if k == kind),
            key=lambda hit: -hit[0],
        )  # fmt: skip
        used: set[tuple[int, int]] = set()
        hits, misses, curve = 0, 0, []
        for _, image, box in ranked:
            there = objects[image]
            of_kind = [j for j, k in enumerate(there["labels"].tolist()) if k == kind]
            best = max(of_kind, key=lambda j: iou(box, there["boxes"][j]), default=None)
            if best is None or iou(box, there["boxes"][best]) < 0.5:
                misses += 1
            elif there["iscrowd"][best]:
                continue
            elif (image, best) in used:
                misses += 1
            else:
                used.add((image, best))
                hits += 1
            curve.append((hits / total, hits / (hits + misses)))
        area, before = 0.0, 0.0
        for recall in sorted({r for r, _ in curve}):
            area += (recall - before) * max(p for r, p in curve if r >= recall)
            before = recall
        precisions.append(area)
    return sum(precisions) / len(precisions)


def boxed(rows: list[list[float]], name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Rows of left, top, right, bottom, label, and score or crowd."""
    table = torch.tensor(rows).reshape(-1, 6)
    return {"boxes": table[:, :4], "labels": table[:, 4].long(), name: table[:, 5].to(dtype)}


def test_map50_by_hand() -> None:
    """Class 0: hit, miss (too little overlap), hit: precisions 1, 1/2, 2/3 at recalls 1/2, 1/2, 1. Class 1: half."""
    objects = [boxed([[0, 0, 10, 10, 0, 0], [20, 20, 40, 40, 0, 0], [5, 5, 9, 9, 1, 0]], "iscrowd", torch.int64)]
    objects.append(boxed([[0, 0, 8, 8, 1, 0]], "iscrowd", torch.int64))
    rows = [[0, 0, 10, 9, 0, 0.9], [20, 20, 40, 29, 0, 0.8], [20, 21, 40, 40, 0, 0.7], [5, 5, 9, 9, 1, 0.6]]
    found = [boxed(rows, "scores", torch.float32), boxed([], "scores", torch.float32)]
    exact = ((0.5 * 1 + 0.5 * 2 / 3) + 0.5) / 2
    assert voc_map50(found, objects) == pytest.approx(exact)
    assert map50(found, objects) == pytest.approx(exact, abs=0.006)  # 101 points instead of the whole area


def test_difficult_objects_count_neither_way() -> None:
    easy = [[0.0, 0, 10, 10, 0, 0]]
    hard = [[30.0, 30, 50, 50, 0, 1], [60, 0, 70, 10, 0, 1]]
    hits = [[0, 0, 10, 10, 0, 0.5]]
    on_hard = [[30, 30, 50, 49, 0, 0.9], [31, 30, 50, 50, 0, 0.8]]  # two on one of them, the other is missed
    there = [boxed(easy + hard, "iscrowd", torch.int64)]
    found = [boxed(hits + on_hard, "scores", torch.float32)]
    assert map50(found, there) == voc_map50(found, there) == 1.0
    asked = [boxed([[*row[:5], 0.0] for row in easy + hard], "iscrowd", torch.int64)]
    assert map50(found, asked) < 0.7


def test_map50_is_near_vocs_on_many_boxes() -> None:
    torch.manual_seed(0)
    found, objects = [], []
    for _ in range(12):
        corners = torch.rand(6, 2) * 60
        there = torch.cat([corners, corners + 10 + 20 * torch.rand(6, 2)], 1)
        kinds, crowds = torch.randint(3, (6,)), (torch.rand(6) < 0.15).long()
        objects.append({"boxes": there, "labels": kinds, "iscrowd": crowds})
        hits = there + 3 * torch.randn(6, 4)
        stray = torch.rand(4, 2) * 60
        boxes = torch.cat([hits, torch.cat([stray, stray + 15], 1)])
        labels = torch.cat([kinds, torch.randint(3, (4,))])
        found.append({"boxes": boxes, "labels": labels, "scores": torch.rand(10) + torch.arange(10).lt(6) * 0.3})
    assert 0.3 < voc_map50(found, objects) < 0.9
    assert map50(found, objects) == pytest.approx(voc_map50(found, objects), abs=0.02)


# -- the task ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"score": 1.5}, "score=1.5"),
        ({"overlap": True}, "overlap=True"),
        ({"most": 0}, "most=0"),
        ({"map_every": 0}, "map_every=0"),
        ({"batch_size": 1}, "at least 2"),
        ({"model": ResNet(8, classes=10, width=4)}, "ResNet finds no boxes.*model=ssdlite"),
        ({"model": narrow(size=96)}, r"model\.size=96 and data\.size=64"),
        ({"data": digits()}, "Detection learns from DetectionData"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_detection_refuses(tmp_path: Path, arguments: dict, says: str) -> None:
    data = voc(root=str(write_voc(tmp_path)), size=64)
    with pytest.raises(UserError, match=says):
        Detection(**{"model": narrow(), "data": data, **COMMON, **arguments})


def test_other_tasks_refuse_boxes() -> None:
    with pytest.raises(UserError, match="Classification learns from ImageData"):
        Classification(narrow(), digit_scenes(scenes=4, val_scenes=2), **COMMON)


VOC = (
    "model=ssdlite", "data=voc", "task=detection", "data.train_limit=null", "model.width=0.1", "model.size=64",
    "trainer.batch_size=8", "optimizer=adam", "optimizer.lr=0.02", "trainer.eval_batch_size=2",
)  # fmt: skip


def test_a_run_learns_and_is_evaluated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = write_voc(tmp_path / "voc", copies=6)
    more = ("trainer.epochs=14", "task.map_every=7", "weights=int8_hyst", "progress=true", f"data.root={root}")
    more = (*more, "data.crop=false", "indicators=default", "indicators.angles.every=15")
    assert train(tmp_path / "out", *VOC, *more, "indicators.angles.batch_size=4") == 0
    said = capfd.readouterr()
    found = summary(tmp_path / "out")
    assert found["val/map50"] > 0.3 and found["best/val/map50"] >= found["val/map50"]
    assert found["val/loss"] == pytest.approx(found["val/box_loss"] + found["val/class_loss"], rel=1e-5)
    names = {"train/box_loss", "flip_frequency", "angle/flow", "angle/gradient", "saturation", "underflow"}
    assert names <= found.keys() and (run_folder(tmp_path / "out") / "traces.png").exists()
    assert [row["epoch"] for row in metrics(tmp_path / "out") if row.get("val/map50")] == ["6", "13"]
    assert "val/map50=" in said.err and "2 classes" in said.err and "24 + 2 images" in said.err
    assert "mAP at IoU 0.5" in said.out and "accuracy" not in said.out
    run = str(run_folder(tmp_path / "out"))
    assert evaluate([run]) == 0
    figures = dict(line.split() for line in capfd.readouterr().out.splitlines())
    for name in ("val/map50", "val/loss"):
        assert float(figures[name]) == pytest.approx(found[name], rel=1e-4)
    assert evaluate([run, "weights=int2", "format=int4"]) == 0
    other = dict(line.split() for line in capfd.readouterr().out.splitlines())
    assert math.isfinite(float(other["val/map50"])) and float(other["val/loss"]) > 1.05 * found["val/loss"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("data=voc",), "data.root is missing"),
        (("data=digit_scenes", "model=resnet8", "model.width=4"), "ResNet finds no boxes"),
        (("data=digits",), "does not go with data=digits"),
        (("data=digit_scenes", "model.size=64", "data.size=96"), "data.size=96 differ"),
    ],
    ids=str,
)
def test_what_does_not_go_together(
    tmp_path: Path, overrides: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    first = ("model=ssdlite", "task=detection", "model.width=0.1")
    assert train(tmp_path / "out", "data.train_limit=null", *first, *overrides) == 2
    error = capfd.readouterr().err
    assert says in error and "Traceback" not in error and not (tmp_path / "out").exists()
