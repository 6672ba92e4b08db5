"""Fixed point of more bits than a list of octaves holds: evenly spaced values at no other scale."""

from collections.abc import Callable

import torch
from torch import Tensor

from .base import Format


class Fixed(Format):
    """Two's complement with `fraction` bits behind the point; rounded to nearest, ties to even.

    Args:
        bits: of a value, its sign included.
        fraction: how many of them stand behind the point.

    In float32, which holds 24 bits, larger values than 2**(24 - fraction) are on the grid as they are, and the largest
    ones saturate at the float32 below 2**(bits - 1 - fraction).
    """

    scaled = False

    def __init__(self, bits: int, fraction: int) -> None:
        self.name, self.bits = f"fixed{bits}_{fraction}", bits
        self.top_exponent = bits - 2 - fraction
        self.step = 2.0**-fraction

    @property
    def high(self) -> float:
        return 2.0 ** (self.top_exponent + 1) * (1 - 2.0**-24)

    @property
    def low(self) -> float:
        return -(2.0 ** (self.top_exponent + 1))

    def _nearest(self, y: Tensor) -> Tensor:
        return self._at(torch.round, y)

    def _floor(self, y: Tensor) -> Tensor:
        return self._at(torch.floor, y)

    def _ceil(self, y: Tensor) -> Tensor:
        return self._at(torch.ceil, y)

    def _at(self, rounded: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        return rounded(y.clamp(self.low, self.high) / self.step).mul_(self.step) + 0.0
