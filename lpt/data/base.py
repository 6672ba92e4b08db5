"""What a data set is here: a few facts and two or three splits that hand out batches."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import LongTensor, Tensor

from ..errors import UserError


class Split(Protocol):
    """One part of a data set. Which images a batch holds is decided by its caller (`Batches`)."""

    prefetch: int  # batches worth preparing ahead, in the background; 0 if they cost nothing

    def __len__(self) -> int: ...

    def batch(self, indices: LongTensor | Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """The images and labels at `indices`.

        Args:
            indices: int64 (N,).
            generator: a CPU generator, the only source of randomness of the augmentation; None, no augmentation.

        Returns:
            images float32 (N, C, H, W), normalised per channel, and labels int64 (N,).
        """
        ...


def first(size: int, limit: int | None, what: str = "training images", least: int = 1) -> int:
    """How many examples `train_limit=limit` leaves of the `size` for training; `what` they are, for the message.

    Raises:
        UserError: less than `least`, or more than there are.
    """
    if limit is None:
        return size
    if isinstance(limit, bool) or not isinstance(limit, int) or not least <= limit <= size:
        raise UserError(f"data.train_limit={limit!r}: give {least} to {size} {what}, or null for all")
    return limit


def held_out(labels: Tensor, count: int) -> Tensor:
    """Which training examples are held out for validation: the last ones of each class, as many of each as of others.

    Args:
        labels: int64 (N,).
        count: how many; 0, none.

    Returns:
        bool (N,). It depends on the labels' order and on nothing else.

    Raises:
        UserError: a count below 0, or one that leaves nothing to train on.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < len(labels):
        raise UserError(f"data.held_out={count!r}: give 0 to {len(labels) - 1} of the {len(labels)} training images")
    from_end = torch.empty_like(labels)
    for label in labels.unique():
        own = (labels == label).nonzero().flatten()
        from_end[own] = torch.arange(len(own) - 1, -1, -1)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[from_end.sort(stable=True).indices[:count]] = True
    return chosen


@dataclass(frozen=True)
class ImageData:
    """A data set for classification.

    Args:
        name: short, as in `data=`.
        classes: number of classes; labels are 0 .. classes - 1.
        shape: (C, H, W) of an image.
        train, val: the splits; `test`, if there is one, is looked at once, at the end of a run, and chooses nothing.
        source: one line: what the images are, and what they are not.

    Raises:
        UserError: a single class.
    """

    name: str
    classes: int
    shape: tuple[int, int, int]
    train: Split
    val: Split
    source: str
    test: Split | None = None

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise UserError(f"data={self.name} has {self.classes} class: there is nothing to learn; give two or more")

    def model_arguments(self) -> dict[str, Any]:
        """What a model must know."""
        return {"classes": self.classes, "in_channels": self.shape[0]}
