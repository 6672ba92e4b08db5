"""ImageNet, or any folder of images: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..places import place
from .base import ImageData, first
from .base import held_out as held
from .images import Augment, Normal, normal_of, normalise, splits_of
from .pixels import rgb

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
AREA = (0.08, 1.0)  # share of the image that a random crop covers: Szegedy et al. 2015, section 6
RATIO = (3 / 4, 4 / 3)  # its width over its height
Box = tuple[float, float, float, float]  # left, top, right, bottom
Files = list[tuple[Path, int]]


def folder(
    path: str | None = None,
    name: str = "imagefolder",
    size: int = 224,
    resize: int = 256,
    in_memory: bool = False,
    workers: int = 4,
    train_limit: int | None = None,
    crop_padding: int = 0,
    flip: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    held_out: int = 0,
) -> ImageData:
    """A folder with `train/CLASS/*`, `val/CLASS/*`, perhaps `test/CLASS/*`; classes are train's sub-folders, sorted.

    Large sets are decoded image by image, in threads: a training image is a random crop of 8 to 100 % of the area
    and an aspect ratio of 3/4 to 4/3, resized to `size`; a validation image is resized to `resize` on its shorter
    side and cropped in the middle. With `in_memory` both splits are decoded once, in the latter way, and training
    augments by `crop_padding` instead. Which images and crops there are does not depend on `workers`.

    Images of 16 bits a channel are scaled to 8; see `lpt.data.pixels` for what is refused.
    An image that cannot be decoded stops the run with a `UserError` that names the file; with `in_memory` that
    happens before training. Files that are no images by their suffix are passed over.

    Args:
        path: the folder.
        name: what the set is called in logs.
        size: side of the square image, in pixels.
        resize: shorter side before the middle crop; at least `size`.
        in_memory: decode once and keep; for sets that fit (N * 3 * size * size bytes).
        workers: threads that decode.
        train_limit: only so many training images, taken class by class in turn.
        crop_padding: see `Augment`; with `in_memory` only.
        flip: mirror half of the training images.
        mean, std: for normalisation, three numbers; None computes them, with `in_memory` only.
        held_out: how many training images are `val` (see `lpt.data.base.held_out`); what val/ holds is `test` then, if
            there is no test/.

    Raises:
        UserError: a missing folder, a class without images, a class of val that train lacks, sizes that do not fit.
    """
    if path is None:
        raise UserError(
            f"data.path is missing: give data={name} data.path=DIR, which holds train/CLASS/* and val/CLASS/*"
        )
    _check_numbers(size, resize, workers)
    if not in_memory and (mean is None or std is None or crop_padding):
        raise UserError("without data.in_memory=true, data.mean and data.std must be given and data.crop_padding be 0")
    root = place(path, "data.path")
    classes, files = _files(root, "train", None)
    found = {part: _files(root, part, classes) for part in ("val", "test") if (root / part).is_dir()}
    if not held_out and "val" not in found:
        _files(root, "val", classes)  # says what is missing
    mask = held(torch.tensor([label for _, label in files]), held_out).tolist()
    kept = [file for file, out in zip(files, mask, strict=True) if not out]
    parts = {"train": kept[: first(len(kept), train_limit)]}
    parts |= {part: listed for part, (_, listed) in found.items()}
    if held_out:
        parts |= {
            "test": parts.get("test", parts.get("val", [])),
            "val": [f for f, o in zip(files, mask, strict=True) if o],
        }
    decoders = {part: _Decoder(listed, size, resize, workers) for part, listed in parts.items() if listed}
    augment = Augment(crop_padding, flip)
    splits = _kept(decoders, augment, mean, std) if in_memory else _lazy(decoders, flip, mean, std)
    sizes = f"{len(classes)} classes, " + ", ".join(f"{len(splits[part])} {part}" for part in splits) + " images"
    lacking = _lacking(classes, found["val"][0]) if not held_out else ""
    return ImageData(
        name=name,
        classes=len(classes),
        shape=(3, size, size),
        train=splits["train"],
        val=splits["val"],
        test=splits.get("test"),
        source=f"image folder {root.name}: {sizes}{lacking}",
    )


class FolderImages:
    """A split that decodes the images of a batch when it is asked for."""

    prefetch = 2

    def __init__(self, decoder: _Decoder, normal: Normal, flip: bool) -> None:
        self.decoder = decoder
        self.labels = decoder.labels
        self.mean, self.deviation = (part.reshape(-1, 1, 1) for part in normal)
        self.flip = flip

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Images float32 (N, 3, size, size) and labels int64 (N,) at `indices`; see `Split`."""
        # All draws are made here, a fixed number per image, before any thread starts.
        draws = None if generator is None else torch.rand(len(indices), 5, generator=generator, dtype=torch.float64)
        images = self.decoder(indices, draws, self.flip)
        return normalise(images, self.mean, self.deviation), self.labels[indices]


class _Decoder:
    """Files to uint8 images of one size."""

    def __init__(self, files: Files, size: int, resize: int, workers: int) -> None:
        self.paths = [path for path, _ in files]
        self.labels = torch.tensor([label for _, label in files])
        self.size = size
        self.resize = resize
        self.workers = workers

    def __call__(self, indices: Tensor, draws: Tensor | None = None, flip: bool = False) -> Tensor:
        """uint8 (N, 3, size, size); `draws`, uniform in [0, 1) and of shape (N, 5), choose crops and flips."""
        paths = [self.paths[i] for i in indices.tolist()]
        rows: list[Any] = [None] * len(paths) if draws is None else draws.tolist()
        with ThreadPoolExecutor(self.workers) as pool:
            planes = list(pool.map(lambda path, row: self._one(path, row, flip), paths, rows))
        return torch.from_numpy(np.stack(planes)).permute(0, 3, 1, 2).contiguous()

    def _one(self, path: Path, row: list[float] | None, flip: bool) -> np.ndarray:
        from PIL import Image

        image = rgb(path)
        width, height = image.size
        box = _middle(width, height, self.size / self.resize) if row is None else _random(width, height, row)
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        mirrored = row is not None and flip and row[4] < 0.5
        return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image)


def _middle(width: int, height: int, share: float) -> Box:
    """The square in the middle whose side is `share` of the shorter side."""
    side = share * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random(width: int, height: int, row: list[float]) -> Box:
    """A box of random area, aspect ratio and place; a box that would stick out is cut to the image's side."""
    area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * row[0])
    ratio = math.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * row[1])
    w, h = min(width, math.sqrt(area * ratio)), min(height, math.sqrt(area / ratio))
    left, top = (width - w) * row[2], (height - h) * row[3]
    return left, top, left + w, top + h


def _check_numbers(size: int, resize: int, workers: int) -> None:
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (size, resize, workers))
    if not whole or not (1 <= size <= resize and workers >= 1):
        raise UserError(f"size={size}, resize={resize}, workers={workers}: needs 1 <= size <= resize and workers >= 1")


def _lacking(classes: list[str], val_classes: list[str]) -> str:
    """What `source` says of classes that val does not have."""
    absent = sorted(set(classes) - set(val_classes))
    return f"; val has no images of {', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}" if absent else ""


def _lazy(
    parts: dict[str, _Decoder], flip: bool, mean: Sequence[float] | None, std: Sequence[float] | None
) -> dict[str, Any]:
    normal = normal_of(torch.empty(0, 3, 1, 1, dtype=torch.uint8), mean, std)
    return {part: FolderImages(decoder, normal, flip and part == "train") for part, decoder in parts.items()}


def _kept(
    parts: dict[str, _Decoder], augment: Augment, mean: Sequence[float] | None, std: Sequence[float] | None
) -> dict[str, Any]:
    images = {part: (decoder(torch.arange(len(decoder.paths))), decoder.labels) for part, decoder in parts.items()}
    return dict(splits_of(images, augment, None, mean, std))


def _files(root: Path, part: str, known: list[str] | None) -> tuple[list[str], Files]:
    """Its classes, and files with their labels: the first of each class, then the second of each, and so on."""
    if not (root / part).is_dir():
        what = "has no folder " + repr(part) if root.is_dir() else "is no folder" if root.exists() else "is not there"
        raise UserError(
            f"data.path={root} {what}; it must hold train/CLASS/*.jpg and val/CLASS/*.jpg "
            "(ImageNet is had from its home page, image-net.org, after registration; its validation images must be "
            "sorted into class folders)"
        )
    found = sorted(entry.name for entry in (root / part).iterdir() if entry.is_dir())
    classes = found if known is None else known
    if not found or set(found) - set(classes):
        odd = sorted(set(found) - set(classes))[:3]
        what = f"classes that train lacks: {', '.join(odd)}" if odd else "no class folders"
        raise UserError(f"{root / part} has {what}; every class is a sub-folder of train/, and val/ has the same ones")
    by_class = []
    for name in found:
        paths = sorted(p for p in (root / part / name).iterdir() if p.suffix.lower() in SUFFIXES)
        if not paths:
            raise UserError(f"{root / part / name} holds no image ({', '.join(sorted(SUFFIXES))}); fill or remove it")
        by_class.append([(p, classes.index(name)) for p in paths])
    in_turn = chain.from_iterable(zip_longest(*by_class))
    return found, [file for file in in_turn if file is not None]
