"""Images and labels of one's own, as .npz files."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from ..places import place
from .base import ImageData
from .images import Augment, Labelled, planes, splits_of, with_val
from .sizes import check_npz

LAYOUT = (
    "a folder with train.npz and val.npz (or data.held_out=N for a val of N training images; and test.npz, if you "
    "like), each with `images`, uint8 (N, H, W) or "
    "(N, H, W, C), and `labels`, integers (N,)"
)


def npz(
    path: str | None = None,
    classes: int | None = None,
    train_limit: int | None = None,
    crop_padding: int = 0,
    flip: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    held_out: int = 0,
) -> ImageData:
    """A folder of train.npz, val.npz and perhaps test.npz, each with `images`, uint8 (N, H, W[, C]), and `labels` (N,).

    Args:
        path: the folder.
        classes: how many there are; 1 + the largest training label if None.
        train_limit: only the first so many training images.
        crop_padding, flip: see `Augment`.
        mean, std: for normalisation, one number per channel; computed from the training images if None.
        held_out: how many training images are `val` (see `lpt.data.base.held_out`), for a folder without val.npz; what
            val.npz holds is `test` then, if there is no test.npz.

    Raises:
        UserError: whatever is wrong with the folder or the files; the message names the file.
    """
    if path is None:
        raise UserError(f"data.path is missing: give data=npz data.path=DIR, {LAYOUT}")
    folder = place(path, "data.path")
    if not folder.is_dir():
        raise UserError(f"data.path={path} is not a folder; it must be {LAYOUT}")
    files = {name: folder / f"{name}.npz" for name in ("train", "val", "test")}
    needed = {"train"} if held_out else {"train", "val"}
    parts = {name: _read(file) for name, file in files.items() if name in needed or file.exists()}
    known = _classes(files["train"], parts["train"]) if classes is None else classes
    shape = parts["train"][0].shape[1:]
    for name, part in parts.items():
        _check_fit(files[name], part, shape, known)
    splits = splits_of(with_val(parts, held_out), Augment(crop_padding, flip), train_limit, mean, std)
    sizes = ", ".join(f"{len(split)} {name}" for name, split in splits.items()) + " images"
    sizes += f" (val held out of {files['train'].name})" if held_out else ""
    return ImageData(
        name="npz",
        classes=known,
        shape=(shape[0], shape[1], shape[2]),
        train=splits["train"],
        val=splits["val"],
        test=splits.get("test"),
        source=f"npz arrays in {folder.name}: {sizes}; what they are, you know",
    )


def _read(file: Path) -> Labelled:
    """The images and labels of one file, checked."""
    if not file.is_file():
        raise UserError(f"{file} is missing; data.path must be {LAYOUT}")
    try:
        check_npz(file)
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as content:
            images, labels = content["images"], content["labels"]
    except UserError:
        raise
    except KeyError as error:
        raise UserError(f"{file} lacks an array: {error.args[0]}; it needs `images` and `labels`") from error
    except (
        OSError, ValueError, EOFError, TypeError, AttributeError, MemoryError, zipfile.BadZipFile, zlib.error
    ) as error:  # fmt: skip
        raise UserError(f"{file} cannot be read as .npz ({error}); write it again, with numpy.savez") from error
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        got = f"{images.dtype} {images.shape}"
        raise UserError(f"{file}: `images` is {got}; it must be uint8 of shape (N, H, W) or (N, H, W, C)")
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != images.shape[:1]:
        got = f"{labels.dtype} {labels.shape}"
        raise UserError(f"{file}: `labels` is {got}; it must be integers of shape ({len(images)},), one per image")
    if 0 in images.shape:
        raise UserError(f"{file} holds no image: `images` is of shape {images.shape}")
    return planes(torch.from_numpy(images)), torch.from_numpy(labels.astype(np.int64))


def _classes(file: Path, train: Labelled) -> int:
    """1 + the largest training label."""
    count, most = len(train[1]), int(train[1].max())
    if most >= count:
        raise UserError(
            f"{file}: labels run up to {most}, with {count} images in all; mend the labels, or give data.classes "
            "if there are so many"
        )
    return 1 + most


def _check_fit(file: Path, part: Labelled, shape: torch.Size, classes: int) -> None:
    """One shape and one set of classes in all files."""
    images, labels = part
    if images.shape[1:] != shape:
        raise UserError(
            f"{file}: images of (C, H, W) = {tuple(images.shape[1:])}, but those of train.npz are {tuple(shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(
            f"{file}: labels run from {low} to {high}, but the {classes} classes are 0 .. {classes - 1}; "
            "mend the labels, or set data.classes"
        )
