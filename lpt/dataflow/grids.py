"""What a slot's blocks are like, and rounding by a slot's rule."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..formats.base import TIES
from .kinds import Convolution, Kind
from .slots import Slot


def to_grid(slot: Slot, y: Tensor, at: Any, key: Tensor | None, grid: Any = None, **scale: Any) -> Tensor:
    """y by the slot's rounding on its grid, or on another one; `at`: a scale, or of a block format a dimension."""
    grid = slot.grid if grid is None else grid
    if slot.rounding == "floor":
        return grid.floor(y, at, **scale)
    return grid.round(y, at, key, slot.rounding if slot.rounding in TIES else None, **scale)


def is_flat(slot: Slot | None) -> bool:
    """Whether its blocks lie as the tensor does that the model has, and not as what is summed over."""
    return slot is not None and getattr(slot.grid, "lies", "") == "flat"


def is_kernel(slot: Slot, kind: Kind, name: str) -> bool:
    """Whether an operand is a convolution's weight and the slot's tiles span its kernel."""
    return isinstance(kind, Convolution) and name[-1] == "w" and getattr(slot.grid, "lies", "") == "kernel"


def whole(y: Tensor) -> Tensor:
    """A convolution's weight, arranged, as (groups, out, in and pixels)."""
    return y.movedim(0, -1).flatten(-2)


def from_whole(y: Tensor, pixels: int) -> Tensor:
    return y.unflatten(-1, (-1, pixels)).movedim(-1, 0)
