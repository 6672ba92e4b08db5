"""What sets of images share: files opened; images in memory, as uint8, augmented and normalised with each batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UserError
from .base import first, held_out
from .sizes import check_pixels

if TYPE_CHECKING:
    import PIL.Image

Normal = tuple[Tensor, Tensor]  # mean and deviation per channel, of values in [0, 1]
Labelled = tuple[Tensor, Tensor]  # images uint8 (N, C, H, W), labels int64 (N,)


@dataclass(frozen=True)
class Augment:
    """What happens to a training image.

    Args:
        crop_padding: pixels of black added on each side before a random crop of the original size; 0, no crop.
        flip: mirror half of the images left to right.
    """

    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise UserError(f"crop_padding={self.crop_padding} is negative: give a number of pixels, or 0 for no crop")
        if not isinstance(self.flip, bool):
            raise UserError(f"flip={self.flip!r}: give true or false")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """uint8 (N, C, H, W), on any device, to the same shape. Draws from the CPU generator alone."""
        n, _, h, w = images.shape
        top = torch.randint(2 * self.crop_padding + 1, (n, 1), generator=generator)
        left = torch.randint(2 * self.crop_padding + 1, (n, 1), generator=generator)
        mirrored = torch.randint(2, (n, 1), generator=generator).bool() & self.flip
        rows = top + torch.arange(h)
        columns = left + torch.where(mirrored, torch.arange(w - 1, -1, -1), torch.arange(w))
        rows, columns = rows.to(images.device), columns.to(images.device)
        padded = F.pad(images, [self.crop_padding] * 4).permute(0, 2, 3, 1)
        item = torch.arange(n, device=images.device)[:, None, None]
        return padded[item, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


class Images:
    """A split held in memory.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        normal: mean and deviation per channel, of values in [0, 1].
        augment: applied when a batch is asked for with a generator.
    """

    prefetch = 0

    def __init__(self, images: Tensor, labels: Tensor, normal: Normal, augment: Augment | None = None) -> None:
        self.images = images
        self.labels = labels
        self.mean, self.deviation = (part.reshape(-1, 1, 1) for part in normal)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Images float32 (N, C, H, W) and labels int64 (N,) at `indices`; see `Split`."""
        indices = indices.to(self.images.device)
        images = self.images[indices]
        if generator is not None and self.augment is not None:
            images = self.augment(images, generator)
        return normalise(images, self.mean, self.deviation), self.labels[indices]

    def to(self, device: torch.device | str) -> Images:
        """The same split with its arrays on `device`: batches are then made there."""
        normal = (self.mean.to(device), self.deviation.to(device))
        return Images(self.images.to(device), self.labels.to(device), normal, self.augment)


def splits_of(
    parts: Mapping[str, Labelled], augment: Augment, train_limit: int | None, mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> dict[str, Images]:  # fmt: skip
    """The parts as splits in memory: of "train" the first `train_limit`, augmented; all normalised as these are.

    Raises:
        UserError: as of `first` and `normal_of`.
    """
    images, labels = parts["train"]
    limit = first(len(labels), train_limit)
    normal = normal_of(images[:limit], mean, std)
    splits = {name: Images(*part, normal) for name, part in parts.items() if name != "train"}
    return {"train": Images(images[:limit], labels[:limit], normal, augment), **splits}


def with_val(parts: Mapping[str, Labelled], count: int) -> dict[str, Labelled]:
    """The parts with `count` training images held out as "val"; what was "val" is "test" then, if there is none.

    With `count` 0 and no "val", "test" is "val".

    Raises:
        UserError: as of `held_out`.
    """
    images, labels = parts["train"]
    mask = held_out(labels, count)
    if not count:
        renamed = dict(parts) if "val" in parts else {"train": parts["train"], "val": parts["test"]}
        return {name: renamed[name] for name in ("train", "val", "test") if name in renamed}
    test = parts["test"] if "test" in parts else parts.get("val")
    made = {"train": (images[~mask], labels[~mask]), "val": (images[mask], labels[mask])}
    return made if test is None else {**made, "test": test}


def planes(images: Tensor) -> Tensor:
    """(N, H, W) or (N, H, W, C) to (N, C, H, W)."""
    return (images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)).contiguous()


@contextmanager
def opened(file: Path) -> Iterator[PIL.Image.Image]:
    """A file as a PIL image, of which no pixel is read yet.

    Raises:
        UserError: it cannot be decoded, now or within.
    """
    from PIL import Image  # slow to import, and not needed everywhere

    try:
        with Image.open(file) as image:
            check_pixels(file, *image.size)
            yield image
    except UserError:  # of what is done within
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be decoded ({error}); remove or replace that file") from error


def normalise(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """uint8 (N, C, H, W) to float32 of mean 0 and deviation 1; `mean` and `deviation` are (C, 1, 1)."""
    return images.float().div_(255).sub_(mean).div_(deviation)


def normal_of(images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None) -> Normal:
    """`mean` and `std` as tensors; what is None is computed from `images`, uint8 (N, C, H, W).

    Raises:
        UserError: not one number per channel, or a deviation that is not above 0.
    """
    channels = images.shape[1]
    computed_mean, computed_std = _moments(images) if mean is None or std is None else (None, None)
    means = computed_mean if mean is None else _numbers("mean", mean)
    deviations = computed_std if std is None else _numbers("std", std)
    assert means is not None and deviations is not None
    for key, given in (("mean", means), ("std", deviations)):
        if given.shape != (channels,):
            raise UserError(
                f"{key} has {given.numel()} numbers for images of {channels} channels: give one per channel, "
                "of values in 0 .. 1, or null to compute it from the training images"
            )
    if not bool((deviations > 0).all()):
        raise UserError(f"std={deviations.tolist()} must be above 0 in every channel")
    return means, deviations


def _numbers(key: str, given: Sequence[float]) -> Tensor:
    try:
        return torch.tensor([float(number) for number in given])
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}={given} is not a list of numbers: write for example [0.5, 0.5, 0.5]") from error


def _moments(images: Tensor) -> Normal:
    """Mean and deviation per channel, exact up to the last rounding: sums over a histogram of the 256 values."""
    means, deviations = [], []
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel in images.unbind(1):
        counts = sum(torch.bincount(part.flatten(), minlength=256) for part in channel.split(4096))
        share = torch.as_tensor(counts).double() / channel.numel()
        mean = (share * values).sum()
        variance = (share * (values - mean) ** 2).sum()
        means.append(mean)
        deviations.append(variance.sqrt().clamp_min(1 / 255))  # a constant channel: one grey level
    return torch.stack(means).float(), torch.stack(deviations).float()
