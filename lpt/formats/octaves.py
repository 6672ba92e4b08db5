"""Formats whose levels are evenly spaced within each octave: floats, integers, logarithms and all in between.

The rounding of every such format is one addition and one subtraction. Adding c = 1.5 * 2**(q + 23) to a float32
pushes all bits below 2**q out of the significand, rounding to nearest with ties to even; subtracting c leaves
the multiple of 2**q. Only q, the spacing's exponent, depends on the format and on the octave of x.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .base import Format
from .scaling import EXPONENT_BITS

MAX_VALID_BITS = 16
MAX_OCTAVES = 127  # octaves from 2**0 down to 2**-126, the smallest normal float32


class Octaves(Format):
    """Sign-magnitude levels given by valid bits per octave (the paper's section on formats).

    v valid bits, the hidden one included, in the octave [2**k, 2**(k+1)) are 2**(v-1) evenly spaced levels.

    Args:
        name: the format's name.
        valid_bits: largest octave first.
        top_exponent: exponent of the largest octave at scale 0.
        drop_top: levels missing at the top (OCP's E4M3 gives 1 to nan).
        low_extra: True adds the level -2**(top_exponent + 1), two's complement's odd one out.
        scaled: False for a format that is used at scale 0 whatever the data.

    Raises:
        ValueError: an empty list, entries that are not integers from 1 to 16, or octaves beyond float32's range.
    """

    def __init__(
        self,
        name: str,
        valid_bits: Sequence[int],
        top_exponent: int = 0,
        drop_top: int = 0,
        low_extra: bool = False,
        scaled: bool = True,
    ) -> None:
        self.name = name
        self.valid_bits = _checked(name, valid_bits, top_exponent)
        self.top_exponent = top_exponent
        self.scaled = scaled
        self.drop_top = drop_top
        self.low_extra = low_extra
        natural = top_exponent != 0 or drop_top or low_extra or not scaled
        self.octaves = None if natural else self.valid_bits
        self.bits = 1 + (sum(2 ** (v - 1) for v in self.valid_bits)).bit_length()
        self._runs, floor = self._find_runs()
        self._floor_bits = {t: int(torch.tensor(floor, dtype=t).view(i)) for t, (i, _) in EXPONENT_BITS.items()}
        self._levels = self._list_levels()
        # c must stay finite, and the octaves must be normal numbers, or the work is done in double.
        largest_spacing = max(top_exponent - i + 1 - v for i, v in enumerate(self.valid_bits))
        self._double = largest_spacing + 23 > 126 or top_exponent - len(self.valid_bits) < -126

    @property
    def high(self) -> float:
        v = self.valid_bits[0]
        return 2.0**self.top_exponent * (2.0 - 2.0 ** (1 - v) * (1 + self.drop_top))

    @property
    def _turn(self) -> float:
        return 2.0 - 2.0 ** -self.valid_bits[0]  # as if no level were missing at the top

    @property
    def low(self) -> float:
        return -(2.0 ** (self.top_exponent + 1)) if self.low_extra else -self.high

    def _nearest(self, y: Tensor) -> Tensor:
        y = y.clamp(self.low, self.high)
        c = self._spacing(y, gain=_ROUNDING_CONSTANT[y.dtype])
        return (y + c).sub_(c)

    def _floor(self, y: Tensor) -> Tensor:
        return self._below(y.clamp(self.low, self.high))[0]

    def _ceil(self, y: Tensor) -> Tensor:
        return 0.0 - self._below(-y.clamp(self.low, self.high))[0]

    def _directed(self, y: Tensor, up: Tensor) -> Tensor:
        y = y.clamp(self.low, self.high)
        below = self._below(torch.where(up, -y, y))[0]
        return torch.where(up, 0.0 - below, below)

    def _stochastic(self, y: Tensor, noise: Tensor) -> Tensor:
        y = y.clamp(self.low, self.high)
        below, step = self._below(y)
        return torch.where(noise * step < y - below, below + step, below)

    def _below(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The level at or below y, which must be within the range, and the distance to the next one."""
        step = self._spacing(y)
        c = step * _ROUNDING_CONSTANT[y.dtype]
        nearest = (y + c).sub_(c)
        return torch.where(nearest > y, nearest - step, nearest), step

    def _spacing(self, y: Tensor, gain: float = 1.0) -> Tensor:
        """gain times the distance between the levels around y, which must be within the range.

        The octave's 2**k is y with its sign and fraction bits cleared. Bits of positive numbers are in the numbers'
        order, and a maximum of integers is one instruction where one of floats, which must hand on nan, is four.
        """
        integer, mask = EXPONENT_BITS[y.dtype]
        octave = (y.view(integer) & mask).clamp_(min=self._floor_bits[y.dtype]).view(y.dtype)
        runs = [(upper, gain * 2.0 ** (1 - v)) for upper, v in self._runs]
        if len(runs) == 1:
            return octave.mul_(runs[0][1])
        factor = torch.where(octave <= runs[1][0], runs[1][1], runs[0][1])
        for upper, this in runs[2:]:
            factor = torch.where(octave <= upper, this, factor)
        return octave.mul_(factor)

    def _find_runs(self) -> tuple[list[tuple[float, int]], float]:
        """Runs of octaves with equal valid bits, as (2**k of the largest, valid bits); and the floor, 2**k.

        From the floor's octave down to zero the spacing does not change any more: this swallows a tail such as
        [4, 3, 2, 1], and the gap between the smallest level and zero, which is as wide as that level.
        """
        valid = [*self.valid_bits, 0]  # an octave of 0 valid bits has the spacing of the gap
        floor = len(self.valid_bits)
        while floor > 0 and valid[floor - 1] == valid[floor] + 1:
            floor -= 1
        starts = [i for i in range(floor + 1) if i == 0 or valid[i] != valid[i - 1]]
        power = [2.0 ** (self.top_exponent - i) for i in range(floor + 1)]
        return [(power[i], valid[i]) for i in starts], power[floor]

    def _list_levels(self) -> list[float] | None:
        count = 2 * (sum(2 ** (v - 1) for v in self.valid_bits) - self.drop_top) + 1 + self.low_extra
        if count > 256:
            return None
        positive = [
            2.0 ** (self.top_exponent - i) * (1 + j * 2.0 ** (1 - v))
            for i, v in enumerate(self.valid_bits)
            for j in range(2 ** (v - 1))
        ]
        positive = sorted(positive)[: len(positive) - self.drop_top]
        negative = [-p for p in positive] + ([self.low] if self.low_extra else [])
        return sorted([*negative, 0.0, *positive])


_ROUNDING_CONSTANT = {torch.float32: 1.5 * 2.0**23, torch.float64: 1.5 * 2.0**52}


def _checked(name: str, valid_bits: Sequence[int], top_exponent: int) -> tuple[int, ...]:
    bits = tuple(valid_bits)
    advice = f"give 1 to {MAX_OCTAVES} integers from 1 to {MAX_VALID_BITS}, the largest octave's valid bits first"
    if not bits:
        raise ValueError(f"format {name}: the list of valid bits is empty; {advice}")
    wrong = [v for v in bits if not isinstance(v, int) or isinstance(v, bool) or not 1 <= v <= MAX_VALID_BITS]
    if wrong:
        raise ValueError(f"format {name}: {wrong[0]!r} is not a number of valid bits; {advice}")
    if top_exponent == 0 and len(bits) > MAX_OCTAVES:
        raise ValueError(f"format {name}: {len(bits)} octaves leave float32's range; {advice}")
    return bits
