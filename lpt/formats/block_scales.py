"""What a block is scaled by: powers of two (E8M0), real numbers (FP32), or a small float under a tensor's own factor.

Each kind finds the scales of blocks from their largest finite magnitudes, and says how to reach scale 0 with them and
come back. Scales are tuples of tensors of one shape, one entry a block, or just one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .base import Format
from .octaves import Octaves
from .scaling import Scale, power_of_two

# The floats that a block's scale may be, without their sign. UE5M3 is AMD's: E5M2's exponents, a bit more of fraction.
E4M3 = Octaves("ocp_e4m3", [4] * 15 + [3, 2, 1], 8, 1)
UE5M3 = Octaves("ue5m3", [4] * 30 + [3, 2, 1], 15)
_TARGET = E4M3.high  # of the scale of the block with a tensor's largest value; AMD's UE5M3 has the same

LARGEST = torch.finfo(torch.float32).max
SMALLEST = torch.finfo(torch.float32).tiny


class BlockScale(Protocol):
    """A kind of scale."""

    bits: int  # of one block's
    parts: int  # tensors that describe it

    def of(self, amax: Tensor) -> tuple[Tensor, ...]:
        """The scales of blocks whose largest finite magnitudes are `amax`, float32 or float64, in its shape."""
        ...

    def applied(self, *parts: Tensor) -> Scale:
        """What `Format.round` takes, of parts that broadcast against the blocks' elements."""
        ...


@dataclass(frozen=True)
class PowerOfTwo:
    """E8M0: exponent L - emax + room + [f > theta] for amax = 2**L * f, with theta from the rule (`Format.carry`).

    In the integers of float64, where a float32 has no subnormals. -127 to 127; -127 for a block of zeros.
    """

    element: Format
    rule: str
    room: int = 0
    bits = 8
    parts = 1

    def of(self, amax: Tensor) -> tuple[Tensor]:
        return (_exponent(amax, self.element, self.rule, self.room).clamp(-127, 127).to(torch.int32),)

    def applied(self, *parts: Tensor) -> Scale:
        return parts[0]


@dataclass(frozen=True)
class Real:
    """FP32: amax over the element's largest value; or the power of two that does not saturate amax (rule "pow2").

    At least 2**-126, so that x / scale is finite. DeepSeek-V3 and TransformerEngine round 448 / amax down to a power
    of two, which is rule "pow2"; their scales are the reciprocals of these.
    """

    element: Format
    rule: str
    bits = 32
    parts = 1

    def of(self, amax: Tensor) -> tuple[Tensor]:
        if self.rule == "pow2":
            return (power_of_two(_exponent(amax, self.element, "rceil").clamp(-126, 127), torch.float32),)
        amax = amax.float().clamp(max=LARGEST)
        return ((amax / torch.full_like(amax, self.element.high)).clamp(min=SMALLEST),)

    def applied(self, *parts: Tensor) -> Scale:
        return _Real(*parts)


@dataclass(frozen=True)
class TwoLevel:
    """A small float b for each block under one FP32 factor G of the tensor, in TransformerEngine's order of operations.

    G = min(448 * high / max amax, largest float32). b = the small float nearest to amax * (G * (1 / high)), but not
    below min_scale. Elements are rounded at x * min(1 / (b * (1 / G)), largest float32), and are worth q * b / G. All
    in float32, each operation rounded; no division by a constant, which some devices make a product. Parts: b, G.
    """

    element: Format
    format: Format
    min_scale: float
    tensor_scale: bool = True  # False: G is 1
    rule: str = "amax"
    bits = 8
    parts = 2

    def of(self, amax: Tensor) -> tuple[Tensor, Tensor]:
        amax = amax.float().clamp(max=LARGEST)
        if self.tensor_scale:
            whole = amax.amax() if amax.numel() else amax.new_zeros(())
            factor = (torch.full_like(whole, _TARGET * self.element.high) / whole).clamp(max=LARGEST)
        else:
            factor = amax.new_ones(())
        wanted = amax * (factor * (1 / self.element.high))
        return self.format.round(wanted.clamp(min=self.min_scale)), factor.reshape([1] * amax.ndim)

    def applied(self, *parts: Tensor) -> Scale:
        return _TwoLevel(*parts)


@dataclass(frozen=True)
class _Real:
    scale: Tensor

    def into(self, x: Tensor) -> Tensor:
        return x / self.scale

    def out_of(self, y: Tensor) -> Tensor:
        return y * self.scale


@dataclass(frozen=True)
class _TwoLevel:
    block: Tensor
    tensor: Tensor

    def into(self, x: Tensor) -> Tensor:
        return x * (self.block * self.tensor.reciprocal()).reciprocal().clamp(max=LARGEST)

    def out_of(self, y: Tensor) -> Tensor:
        value = y * self.block / self.tensor
        return torch.where(value == 0, 0.0, value)  # a negative level of a block whose scale is 0 is no -0


def _exponent(amax: Tensor, element: Format, rule: str, room: int = 0) -> Tensor:
    bits = amax.double().view(torch.int64) + element.carry(rule, torch.float64)
    return (bits >> 52) - (1023 + element.anchor - room)


class Kind(NamedTuple):
    """A kind of scale by name: its rules, the usual one first; its options; how to make one for an element."""

    rules: tuple[str, ...]
    options: tuple[str, ...]
    build: Callable[..., BlockScale]


SCALES = {
    "e8m0": Kind(("floor", "even", "ceil", "rceil"), ("room",), PowerOfTwo),
    "e4m3": Kind(("amax",), ("min_scale", "tensor_scale"), partial(TwoLevel, format=E4M3, min_scale=0.0)),
    "ue5m3": Kind(("amax",), ("min_scale", "tensor_scale"), partial(TwoLevel, format=UE5M3, min_scale=2.0**-17)),
    "fp32": Kind(("amax", "pow2"), (), Real),
}
