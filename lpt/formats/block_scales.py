"""What a block is scaled by: powers of two (E8M0), real numbers (FP32), or a small float under a tensor's own factor.

Each kind finds the scales of blocks from what they hold, and says how to reach scale 0 with them and come back. Scales
are tuples of tensors of one shape, one entry a block, or just one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from .base import Format
from .octaves import Octaves
from .scaling import Scale, held, power_of_two, times_power_of_two
from .squeeze import Squeeze, Static
from .tiles import Contents

# The floats that a block's scale may be, without their sign. UE5M3 is AMD's: E5M2's exponents, a bit more of fraction.
E4M3 = Octaves("ocp_e4m3", [4] * 15 + [3, 2, 1], 8, 1)
UE5M3 = Octaves("ue5m3", [4] * 30 + [3, 2, 1], 15)
_TARGET = E4M3.high  # of the scale of the block with a tensor's largest value; AMD's UE5M3 has the same
_TARGET_46 = 256.0  # the same for "four_six", so that a scale that is 1.5 times larger is below E4M3's largest
TINY = 1e-8  # added to the scales of rules "rms" and "std", so that they are never 0 (QuEST, Quartet)

LARGEST = torch.finfo(torch.float32).max
SMALLEST = torch.finfo(torch.float32).tiny


class BlockScale(Protocol):
    """A kind of scale."""

    bits: int  # of one block's
    parts: int  # tensors that describe it

    def of(self, blocks: Contents) -> tuple[Tensor, ...]:
        """Their scales, shaped as `blocks.amax` is."""
        ...

    def applied(self, *parts: Tensor) -> Scale:
        """What `Format.round` takes, of parts that broadcast against the blocks' elements."""
        ...


def spread_of(blocks: Contents, rule: str, spread: float) -> Tensor:
    """spread * rms + 1e-8, or of the standard deviation, without Bessel's correction (0 if its square came out below).

    In float32, or float64 of float64 tensors.
    """
    square = blocks.mean(2)
    if rule == "std":
        square = (square - blocks.mean(1) ** 2).clamp(min=0)
    return spread * square.sqrt() + TINY


@dataclass(frozen=True)
class PowerOfTwo:
    """E8M0: exponent L - emax + room + [f > theta] for amax = 2**L * f, with theta from the rule (`Format.carry`).

    Rules "rms" and "std": floor(log2(spread / high * rms + 1e-8)), Quartet's. `factor` multiplies every scale.
    In the integers of float64, where a float32 has no subnormals. -127 to 127; -127 for a block of zeros.
    """

    element: Format
    rule: str
    room: int = 0
    spread: float | None = None
    factor: float = 1.0
    bits = 8
    parts = 1

    def of(self, blocks: Contents) -> tuple[Tensor]:
        if self.spread is not None:
            scale = spread_of(blocks, self.rule, self.spread / self.element.high)
            exponent = (scale.double().view(torch.int64) >> 52) - 1023 + self.room
        else:
            exponent = _exponent(blocks.amax, self.element, self.rule, self.room)
        return (exponent.clamp(-127, 127).to(torch.int32),)

    def applied(self, *parts: Tensor) -> Scale:
        return parts[0] if self.factor == 1 else _Times(parts[0], self.factor)


@dataclass(frozen=True)
class Real:
    """FP32: amax over the element's largest value; or the power of two that does not saturate amax (rule "pow2"); or,
    of rules "rms" and "std", (spread * rms + 1e-8) over the largest value, QuEST's.

    Rule "inverse" is amax in TransformerEngine's order of operations: the factor high / amax, 1 where amax is 0;
    elements are rounded at x * factor and are worth q * (1 / factor). Rule "sawb", LUQ's for 4 bits: clip over the
    largest value, clip = 12.1 sqrt(E[x**2]) - 12.2 E|x|; amax in its place where that is not positive.

    At least 2**-126, so that x / scale is finite. DeepSeek-V3 and TransformerEngine round 448 / amax down to a power
    of two, which is rule "pow2"; their scales are the reciprocals of these.
    """

    element: Format
    rule: str
    spread: float | None = None
    bits = 32
    parts = 1

    def of(self, blocks: Contents) -> tuple[Tensor]:
        if self.rule == "pow2":
            exponent = _exponent(blocks.amax, self.element, "rceil").clamp(-126, 127)
            return (power_of_two(exponent, torch.float32),)
        if self.rule == "inverse":
            return (self.inverse(blocks.amax.float()),)
        size = blocks.amax if self.spread is None else spread_of(blocks, self.rule, self.spread)
        if self.rule == "sawb":
            clip = 12.1 * blocks.mean(2).sqrt() - 12.2 * blocks.mean_magnitude()
            size = torch.where(clip > 0, clip, size)
        size = size.float().clamp(max=LARGEST)
        return ((size / torch.full_like(size, self.element.high)).clamp(min=SMALLEST),)

    def inverse(self, amax: Tensor) -> Tensor:
        """high / amax, 1 where amax is 0, the largest float32 where it would be infinite; float32."""
        factor = (torch.full_like(amax, self.element.high) / amax).clamp(max=LARGEST)
        return torch.where(amax > 0, factor, 1.0)

    def applied(self, *parts: Tensor) -> Scale:
        return _Inverse(*parts) if self.rule == "inverse" else _Real(*parts)


@dataclass(frozen=True)
class TwoLevel:
    """A small float b for each block under one FP32 factor G of the tensor, in TransformerEngine's order of operations.

    G = min(target * high / max amax, largest float32). b = the small float nearest to amax * (G * (1 / high)), but not
    below min_scale. Elements are rounded at x * min(1 / (b * (1 / G)), largest float32), and are worth q * b / G. All
    in float32, each operation rounded; no division by a constant, which some devices make a product. Parts: b, G.

    Options: `target`, 448 if not given (rule "four_six": 256). `headroom` divides high in both lines above: 17/16 keeps
    amax within the grid even where b was rounded down. `outer`: G is that of so many elements along the dimension, not
    of the tensor. Rule "four_six": b from amax, or from 1.5 amax where that rounds a block with less squared error
    ("four_six_mae": absolute error); a tie leaves the first.
    """

    element: Format
    format: Format
    min_scale: float
    tensor_scale: bool = True  # False: G is 1
    rule: str = "amax"
    target: float | None = None
    headroom: float = 1.0
    outer: int | None = None  # in blocks
    bits = 8
    parts = 2

    def of(self, blocks: Contents) -> tuple[Tensor, Tensor]:
        amax = blocks.amax.float().clamp(max=LARGEST)
        high = self.element.high / self.headroom
        target = self.target or (_TARGET if self.rule == "amax" else _TARGET_46)
        if not self.tensor_scale:
            factor = amax.new_ones([1] * amax.ndim)
        else:
            whole = self._together(amax, blocks.inner[-1] - 1)
            factor = (torch.full_like(whole, target * high) / whole).clamp(max=LARGEST)
        wanted = amax * (factor * (1 / high))
        scale = self.format.round(wanted.clamp(min=self.min_scale))
        if self.rule == "amax":
            return scale, factor
        larger = self.format.round((wanted * 1.5).clamp(min=self.min_scale))
        better = self._error(blocks, larger, factor) < self._error(blocks, scale, factor)
        return torch.where(better, larger, scale), factor

    def applied(self, *parts: Tensor) -> Scale:
        return _TwoLevel(*parts)

    def _together(self, amax: Tensor, dim: int) -> Tensor:
        """The largest amax of those that share a factor: of all, or of each `outer` along dim, in amax's shape."""
        if self.outer is None or not amax.numel():
            whole = amax.amax() if amax.numel() else amax.new_zeros(())
            return whole.reshape([1] * amax.ndim)
        n = amax.shape[dim]
        groups = pad(amax.movedim(dim, -1), (0, -n % self.outer)).unflatten(-1, (-1, self.outer))
        return groups.amax(-1, keepdim=True).expand_as(groups).flatten(-2)[..., :n].movedim(-1, dim)

    def _error(self, blocks: Contents, scale: Tensor, factor: Tensor) -> Tensor:
        x = torch.nan_to_num(blocks.x.float(), nan=0.0, posinf=0.0, neginf=0.0)
        error = self.element.round(x, _TwoLevel(scale, factor)) - x
        return (error**2 if self.rule == "four_six" else error.abs()).sum(blocks.inner, keepdim=True)


@dataclass(frozen=True)
class _Times:
    exponent: Tensor
    factor: float

    def into(self, x: Tensor) -> Tensor:
        return times_power_of_two(x, -self.exponent) / torch.full((), self.factor, dtype=x.dtype, device=x.device)

    def out_of(self, y: Tensor) -> Tensor:
        return times_power_of_two(y * torch.full((), self.factor, dtype=y.dtype, device=y.device), self.exponent)


@dataclass(frozen=True)
class _Real:
    scale: Tensor

    def into(self, x: Tensor) -> Tensor:
        return x / self.scale

    def out_of(self, y: Tensor) -> Tensor:
        return y * self.scale


@dataclass(frozen=True)
class _Inverse:
    factor: Tensor

    def into(self, x: Tensor) -> Tensor:
        return x * self.factor

    def out_of(self, y: Tensor) -> Tensor:
        return y * held(self.factor.reciprocal())


@dataclass(frozen=True)
class _TwoLevel:
    block: Tensor
    tensor: Tensor

    def into(self, x: Tensor) -> Tensor:
        return x * held((self.block * self.tensor.reciprocal()).reciprocal().clamp(max=LARGEST))

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


_SPREADS = ("rms", "std")
SCALES = {
    "e8m0": Kind(("floor", "even", "ceil", "rceil", *_SPREADS), ("room", "factor", "spread"), PowerOfTwo),
    "e4m3": Kind(
        ("amax", "four_six", "four_six_mae"),
        ("min_scale", "tensor_scale", "target", "headroom", "outer"),
        partial(TwoLevel, format=E4M3, min_scale=0.0),
    ),
    "ue5m3": Kind(
        ("amax",),
        ("min_scale", "tensor_scale", "target", "headroom", "outer"),
        partial(TwoLevel, format=UE5M3, min_scale=2.0**-17),
    ),
    "fp32": Kind(("amax", "pow2", "inverse", "sawb", *_SPREADS), ("spread",), Real),
    "squeeze": Kind(("log",), (), Squeeze),
    "static": Kind(("fixed",), ("exponent",), Static),
}
