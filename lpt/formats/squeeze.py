"""Two more kinds of a block's scale (`block_scales`): a power between which it is squeezed, and one that is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Format
from .scaling import Scale
from .tiles import Contents


@dataclass(frozen=True)
class Static:
    """2**exponent, whatever the data."""

    element: Format
    rule: str
    exponent: int
    bits = 0
    parts = 1

    def of(self, blocks: Contents) -> tuple[Tensor]:
        return (torch.full_like(blocks.amax, self.exponent, dtype=torch.int32),)

    def applied(self, *parts: Tensor) -> Scale:
        return parts[0]


@dataclass(frozen=True)
class Squeeze:
    """S2FP8: x becomes sgn(x) 2**beta |x|**alpha, is rounded, and comes back by the inverse map; in float64.

    alpha = E / (M - mu), beta = -alpha mu, with mu the mean of log2|x| over what is not zero, M its maximum, and E the
    octave of the element's largest value (15 for E5M2): magnitudes then lie around 1 and reach 2**E. Where all are
    alike, alpha is 1 and beta -M.
    """

    element: Format
    rule: str
    bits = 64
    parts = 2

    def of(self, blocks: Contents) -> tuple[Tensor, Tensor]:
        mean, top = blocks.octaves()
        alpha = torch.where(top > mean, self.element.top_exponent / (top - mean), 1.0)
        return alpha, -alpha * mean

    def applied(self, *parts: Tensor) -> Scale:
        return _Squeeze(*parts)


@dataclass(frozen=True)
class _Squeeze:
    alpha: Tensor
    beta: Tensor

    def into(self, x: Tensor) -> Tensor:
        y = torch.exp2(x.double().abs().log2() * self.alpha + self.beta)
        return torch.where(x == 0, 0.0, torch.copysign(y, x.double())).to(x.dtype)

    def out_of(self, y: Tensor) -> Tensor:
        x = torch.exp2((y.double().abs().log2() - self.beta) / self.alpha)
        return torch.where(y == 0, 0.0, torch.copysign(x, y.double())).to(y.dtype)
