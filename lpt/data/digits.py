"""scikit-learn's digits: real data that comes with the package (digits.npz), so that nothing has to be downloaded."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from .base import ImageData
from .images import Augment, splits_of

FILE = Path(__file__).with_suffix(".npz")  # images uint8 [1797, 8, 8] in 0 .. 16, labels uint8 [1797], CC BY 4.0
EVERY = 5  # of each class, in the order of the file, every fifth image is held out for validation


def digits(
    train_limit: int | None = None,
    enlarge: int = 1,
    crop_padding: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageData:
    """1,797 handwritten digits of 8x8 grey pixels in 17 levels; 1,442 train, 355 val.

    The split is fixed and stratified: within each class, in the order of the file, images 4, 9, 14, ... are `val`. The
    same 13 people wrote both parts, so accuracies are not comparable with those on the set's official training part.

    Args:
        train_limit: only the first so many training images.
        enlarge: each pixel becomes so many by so many, for networks that halve their input often.
        crop_padding: see `Augment`; in pixels of the enlarged image.
        mean, std: for normalisation, one number; computed from the training images if None.

    Raises:
        UserError: a limit, a factor or a normalisation that does not fit.
    """
    if not isinstance(enlarge, int) or enlarge < 1:
        raise UserError(f"data.enlarge={enlarge}: give a whole number from 1 upward; 4 makes images of 32x32 pixels")
    with np.load(FILE, allow_pickle=False) as stored:
        pixels, target = torch.from_numpy(stored["images"]), torch.from_numpy(stored["labels"])
    images = pixels.mul(15).unsqueeze(1)  # 0 .. 16 becomes 0 .. 240, exactly
    images = images.repeat_interleave(enlarge, 2).repeat_interleave(enlarge, 3)
    labels = target.long()
    rank = torch.stack([(labels[:i] == labels[i]).sum() for i in range(len(labels))])  # place within its class
    held_out = rank % EVERY == EVERY - 1
    parts = {"train": (images[~held_out], labels[~held_out]), "val": (images[held_out], labels[held_out])}
    splits = splits_of(parts, Augment(crop_padding), train_limit, mean, std)
    return ImageData(
        name="digits",
        classes=10,
        shape=(1, 8 * enlarge, 8 * enlarge),
        train=splits["train"],
        val=splits["val"],
        source="scikit-learn's digits: 8x8 grey images (the test part of UCI's optical recognition of handwritten "
        "digits); fixed stratified split, the same writers in train and val",
    )
