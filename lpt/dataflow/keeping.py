"""What a product keeps of an operand for its gradients: a tensor, or the codes of what it will multiply."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .laying import Laid
from .rounding import Rounding


class Kept:
    """One operand between forward and backward. Autograd holds the tensors, `given()`; this says what they are.

    Attributes:
        done: what `restored` gives is what is multiplied; or else it is still to be rounded.
        count: tensors.
    """

    def __init__(self, *tensors: Tensor | None, coded: tuple[Rounding, Laid] | None = None) -> None:
        self._tensors: tuple[Tensor | None, ...] = tensors
        self._coded = coded
        self.count, self.done = len(tensors), coded is not None

    @classmethod
    def coded(cls, rounding: Rounding, at: Laid, key: Tensor | None) -> Kept:
        """Of `at`: rounded, as codes and scales."""
        like = at._replace(y=torch.empty_like(at.y, device="meta"))
        return cls(*rounding.coded(at, key), coded=(rounding, like))

    def given(self) -> tuple[Tensor | None, ...]:
        """The tensors, which are not held any longer."""
        tensors, self._tensors = self._tensors, ()
        return tensors

    def restored(self, tensors: Sequence[Tensor]) -> Tensor:
        if self._coded is None:
            return tensors[0]
        rounding, at = self._coded
        return at.back(rounding.decoded(at, tuple(tensors)))
