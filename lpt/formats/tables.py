"""Formats given by a table of values: any sorted list that holds zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from .base import Format

MAX_CELLS = 2048
FEW = 32  # levels that a compiled comparison with each of them finds faster than a look-up
_CPU = torch.device("cpu")


class Table(Format):
    """Any set of at most 256 values that holds zero. Ties go to the level with the even rank, counted from zero.

    For a float's values that is the usual "ties to even", since codes then rise with the significand.

    Args:
        name: the format's name.
        values: distinct finite numbers, ascending, zero among them; at most 128 below zero and 127 above. They
            are rounded to float32 first, so that a value is the same number whatever the dtype of the input.
        bits: width of a code; the smallest that holds all values if not given.
        scaled: False for a format that is used at scale 0 whatever the data.

    Raises:
        ValueError: too many values, not ascending, not finite, or no zero.
    """

    def __init__(self, name: str, values: Sequence[float], bits: int | None = None, scaled: bool = True) -> None:
        levels = torch.tensor([float(v) + 0.0 for v in values], dtype=torch.float32).tolist()
        self.name = name
        self.scaled = scaled
        self._check(levels)
        self._levels: list[float] = levels
        self.bits = bits or max(2, math.ceil(math.log2(len(levels))))
        self.top_exponent = math.frexp(max(levels[-1], -levels[0]))[1] - 1
        # Scaled down to where float32 runs out of bits, a number must still be on its side of every threshold.
        self._double = min(abs(v) for v in levels if v) < 2.0**-100
        # On every device where they were needed: to copy them there makes the host wait.
        self._lookups = {(dtype, _CPU): self._lookup_of(dtype) for dtype in (torch.float32, torch.float64)}
        self._listed_thresholds = {dtype: own.thresholds.tolist() for (dtype, _), own in self._lookups.items()}

    def _check(self, levels: list[float]) -> None:
        advice = f"format {self.name}: give ascending finite numbers with 0 among them, at most 256"
        if len(levels) < 2 or not all(math.isfinite(v) for v in levels):
            raise ValueError(f"{advice}; got {levels[:8]}")
        if any(a >= b for a, b in pairwise(levels)) or 0.0 not in levels:
            raise ValueError(f"{advice}; got {len(levels)} values from {levels[0]} to {levels[-1]}")
        zero = levels.index(0.0)
        if zero > 128 or len(levels) - 1 - zero > 127:
            raise ValueError(
                f"{advice}, 128 negative and 127 positive; got {zero} negative and {len(levels) - 1 - zero} positive"
            )

    @property
    def high(self) -> float:
        return self._levels[-1]

    @property
    def low(self) -> float:
        return self._levels[0]

    def _lookup_of(self, dtype: torch.dtype) -> Lookup:
        levels, thresholds = torch.tensor(self._levels, dtype=dtype), self._thresholds(dtype)
        return Lookup(levels, thresholds, Cells.cut(levels, thresholds) if dtype == torch.float32 else None)

    def _thresholds(self, dtype: torch.dtype) -> Tensor:
        """The smallest number that rounds up to the next level, for each pair of neighbours: no ties remain."""
        zero = self._levels.index(0.0)
        ties = [(Fraction(a) + Fraction(b)) / 2 for a, b in pairwise(self._levels)]
        near = torch.tensor([float(tie) for tie in ties], dtype=torch.float64).to(dtype)
        too_low = [
            Fraction(t) < tie or (t == tie and (i + 1 - zero) % 2 != 0)  # an odd level leaves its tie to the even one
            for i, (t, tie) in enumerate(zip(near.tolist(), ties, strict=True))
        ]
        return torch.where(torch.tensor(too_low), torch.nextafter(near, torch.full_like(near, math.inf)), near)

    def _nearest(self, y: Tensor) -> Tensor:
        if len(self._levels) <= FEW and torch.compiler.is_compiling():
            level = torch.full_like(y, self._levels[0])
            for value, threshold in zip(self._levels[1:], self._listed_thresholds[y.dtype], strict=True):
                level = torch.where(y >= threshold, value, level)
            return self._keep_nan(level, y)
        own = self._lookup(y)
        if own.cells is not None:
            return self._keep_nan(own.cells.nearest(y), y)
        return self._keep_nan(own.levels[torch.bucketize(y.contiguous(), own.thresholds, right=True)], y)

    def _floor(self, y: Tensor) -> Tensor:
        levels = self._lookup(y).levels
        return self._keep_nan(levels[(torch.bucketize(y.contiguous(), levels, right=True) - 1).clamp(min=0)], y)

    def _ceil(self, y: Tensor) -> Tensor:
        levels = self._lookup(y).levels
        return self._keep_nan(levels[torch.bucketize(y.contiguous(), levels).clamp(max=len(levels) - 1)], y)

    def _lookup(self, y: Tensor) -> Lookup:
        """In y's dtype, on its device."""
        if (y.dtype, y.device) not in self._lookups:
            with torch.inference_mode(False):  # it outlasts the pass that needs it first
                self._lookups[y.dtype, y.device] = self._lookups[y.dtype, _CPU].to(y.device)
        return self._lookups[y.dtype, y.device]

    @staticmethod
    def _keep_nan(rounded: Tensor, y: Tensor) -> Tensor:
        return torch.where(y != y, y, rounded)  # isnan would not be vectorized when compiled


@dataclass(frozen=True)
class Lookup:
    """What a number's level is found with, in one dtype and on one device."""

    levels: Tensor
    thresholds: Tensor  # one between each pair of neighbours
    cells: Cells | None  # of float32 alone, and where there are few enough: a faster way to the nearest

    def to(self, device: torch.device) -> Lookup:
        cells = None if self.cells is None else self.cells.to(device)
        return Lookup(self.levels.to(device), self.thresholds.to(device), cells)


@dataclass(frozen=True)
class Cells:
    """The number line cut, by the upper bits of a float32, into cells of which none holds two thresholds.

    So a number's cell and one comparison give its level, where a search would take eight steps.
    """

    shift: int  # lower bits that do not matter
    first: int  # upper bits of the cell next to zero, which reaches down to it
    count: int  # on each side of zero; the last one reaches to infinity
    thresholds: Tensor  # float32 [2 * count]: the one of each cell, inf where there is none; negative cells last
    levels: Tensor  # int64 [2 * count]: the bits of each cell's level below its threshold, above them its other's

    @staticmethod
    def cut(levels: Tensor, thresholds: Tensor) -> Cells | None:
        """The fewest cells that will do; None if they would not fit a processor's first cache."""
        magnitude = thresholds.abs()
        bits = magnitude[magnitude >= torch.finfo(torch.float32).tiny].view(torch.int32)
        for shift in range(23, -1, -1):
            first = int(bits.min() >> shift) - 1
            count = int(bits.max() >> shift) + 2 - first
            if count > MAX_CELLS:
                return None
            lowest = (torch.arange(count, dtype=torch.int32) + first) << shift
            near = lowest.view(torch.float32).clone()
            far = (lowest + ((1 << shift) - 1)).view(torch.float32).clone()
            near[0], far[-1] = 0.0, math.inf
            below = torch.bucketize(torch.cat([near, -far]), thresholds, right=True)
            above = torch.bucketize(torch.cat([far, -near]), thresholds, right=True)
            if (above - below).max() <= 1:
                own = torch.where(above > below, thresholds[below.clamp(max=len(thresholds) - 1)], math.inf)
                low, high = (levels[rank].view(torch.int32).to(torch.int64) for rank in (below, above))
                return Cells(shift, first, count, own, high << 32 | low & 0xFFFFFFFF)
        return None

    def to(self, device: torch.device) -> Cells:
        return replace(self, thresholds=self.thresholds.to(device), levels=self.levels.to(device))

    def nearest(self, y: Tensor) -> Tensor:
        """The level nearest to y (float32), as the thresholds say; anything for a nan."""
        bits = y.contiguous().view(-1).view(torch.int32)
        cell = ((bits & 0x7FFFFFFF) >> self.shift).clamp(self.first, self.first + self.count - 1) - self.first
        cell = torch.where(bits < 0, cell + self.count, cell).to(torch.int64)
        # Of torch's ways to look up, gather compiles to the least; and one look-up is faster than two.
        threshold, both = self.thresholds.gather(0, cell).view(y.shape), self.levels.gather(0, cell).view(y.shape)
        return torch.where(y >= threshold, both >> 32, both).to(torch.int32).view(torch.float32)
