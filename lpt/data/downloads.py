"""CIFAR-10, CIFAR-100 and Fashion-MNIST as torchvision stores them; decoded once and kept in memory."""

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import UserError
from ..places import place
from .base import ImageData
from .images import Augment, Labelled, planes, splits_of, with_val

# torchvision's class, classes, shape, and what a user must put where
SETS: dict[str, tuple[str, int, tuple[int, int, int], str]] = {
    "cifar10": (
        "CIFAR10",
        10,
        (3, 32, 32),
        "the Python version of CIFAR-10 (cifar-10-python.tar.gz, from its home page at the University of Toronto), "
        "unpacked to {path}/cifar-10-batches-py",
    ),
    "cifar100": (
        "CIFAR100",
        100,
        (3, 32, 32),
        "the Python version of CIFAR-100 (cifar-100-python.tar.gz, from its home page at the University of Toronto), "
        "unpacked to {path}/cifar-100-python",
    ),
    "fashion_mnist": (
        "FashionMNIST",
        10,
        (1, 28, 28),
        "the four idx files of Fashion-MNIST (train-images-idx3-ubyte and so on, from Zalando Research's repository), "
        "unpacked to {path}/FashionMNIST/raw",
    ),
}


def downloads(
    name: str,
    path: str = "data",
    download: bool = False,
    train_limit: int | None = None,
    crop_padding: int = 0,
    flip: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    held_out: int = 0,
) -> ImageData:
    """One of torchvision's small data sets; `test` is its official test part, `val` is held out of its training part.

    Args:
        name: cifar10, cifar100 or fashion_mnist.
        path: the folder where the set is, or goes.
        download: fetch it if it is not there.
        train_limit: only the first so many training images.
        crop_padding, flip: see `Augment`.
        mean, std: for normalisation, one number per channel; computed from the training images if None.
        held_out: how many training images are `val` (see `lpt.data.base.held_out`); with 0 `val` is the official test
            part, so that what is chosen by `val` is chosen by that, and there is no `test`.

    Raises:
        UserError: an unknown name; files that are missing or damaged, with what to put where.
    """
    if name not in SETS:
        raise UserError(f"data.name={name!r} is not one of {', '.join(SETS)}")
    _, classes, shape, _ = SETS[name]
    path = str(place(path, "data.path"))
    parts = {"train": official(name, path, True, download), "test": official(name, path, False, download)}
    splits = splits_of(with_val(parts, held_out), Augment(crop_padding, flip), train_limit, mean, std)
    counts = {part: len(split) for part, split in splits.items()}
    val = f"val is {held_out} others, test the official test part" if held_out else "val is the official test part"
    return ImageData(
        name=name,
        classes=classes,
        shape=shape,
        train=splits["train"],
        val=splits["val"],
        test=splits.get("test"),
        source=f"{name}: {counts['train']} training images; {val}, {counts.get('test', counts['val'])} images",
    )


def official(name: str, path: str, train: bool, download: bool) -> Labelled:
    """The images, uint8 (N, C, H, W), and labels, int64 (N,), of one official part, checked."""
    kind, classes, shape, needs = SETS[name]
    from torchvision import datasets  # slow to import, and needed here only

    try:
        part: Any = getattr(datasets, kind)(path, train=train, download=download)
    except Exception as error:  # missing, damaged, no network: torchvision raises all sorts
        raise UserError(
            f"{kind} was not found in data.path={path} ({str(error).strip()}); it needs {needs.format(path=path)}. "
            "Add data.download=true to fetch it, or set data.path"
        ) from error
    images, labels = planes(torch.as_tensor(part.data)), torch.as_tensor(part.targets, dtype=torch.int64)
    if images.shape != (len(labels), *shape) or not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(
            f"{kind} in data.path={path} is not what it should be: images {tuple(images.shape)}, labels "
            f"{int(labels.min())} to {int(labels.max())}; remove it and add data.download=true"
        )
    return images, labels
