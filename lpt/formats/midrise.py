"""Grids without zero: 2**bits levels, evenly spaced, half of them on each side."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Format


class MidRise(Format):
    """The odd numbers from 1 - 2**bits to 2**bits - 1: a mid-rise quantizer of step 2 (QuEST, 2502.05003).

    Ties, at even numbers, go as round(x / 2 + 1/2) takes them, with ties to even: to ..., -5, -1, 3, 7, ... Zero goes
    to -1. In a block of zeros that is -1 times a scale near zero.

    Args:
        bits: 2 to 7.
    """

    def __init__(self, bits: int) -> None:
        self.name, self.bits = f"mid{bits}", bits
        self._levels: list[float] = [float(v) for v in range(1 - 2**bits, 2**bits, 2)]
        self.top_exponent = bits - 1

    @property
    def high(self) -> float:
        return 2.0**self.bits - 1

    def _nearest(self, y: Tensor) -> Tensor:
        return 2 * torch.round(y.clamp(self.low, self.high) / 2 + 0.5) - 1

    def _floor(self, y: Tensor) -> Tensor:
        y = y.clamp(self.low, self.high)
        below = 2 * torch.floor(y / 2 + 0.5) - 1
        return torch.where(below > y, below - 2, below)  # the sum may have been rounded up

    def _ceil(self, y: Tensor) -> Tensor:
        return -self._floor(-y)

    def values(self) -> Tensor:
        """All values at scale 0: float64, ascending; zero is none of them."""
        return torch.tensor(self._levels, dtype=torch.float64)

    def _listed(self) -> list[float]:
        """With the zero from which codes count: code 0 is never given."""
        half = len(self._levels) // 2
        return [*self._levels[:half], 0.0, *self._levels[half:]]
