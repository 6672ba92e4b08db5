"""Posits, whose levels taper towards both ends: rounded as integers, since a posit is a prefix of a float's bits.

From its leading bit down, a float's exponent and fraction are one fixed-point number. A posit keeps the upper part of
that number: one bit less with every step that its regime is away from 1. So rounding in code space is rounding of
this integer at a place that the regime decides, and a carry into the next regime comes out right by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Format

# The integer of the same width, bits of the fraction, exponent bias.
_LAYOUT = {torch.float32: (torch.int32, 23, 127), torch.float64: (torch.int64, 52, 1023)}


class Posit(Format):
    """Posit (Gustafson & Yonemoto 2017): a sign, a run of equal regime bits, `es` exponent bits, the fraction.

    Rounds as the posit standard says: the midpoint of two neighbours is the value of the code between them with
    one more bit, a tie goes to the even code, and a nonzero value never becomes zero.

    Args:
        bits: 3 to 8.
        es: exponent bits, 0 to 2.

    Raises:
        ValueError: bits or es out of range.
    """

    _tiny_is_zero = False

    def __init__(self, bits: int, es: int) -> None:
        if not 3 <= bits <= 8 or not 0 <= es <= 2:
            raise ValueError(f"posit({bits}, {es}) is not offered: bits are 3 to 8, exponent bits 0 to 2")
        self.name = f"posit{bits}_{es}"
        self.bits, self.es = bits, es
        self.top_exponent = (bits - 2) * 2**es
        positive = [posit_value(code, bits, es) for code in range(1, 2 ** (bits - 1))]
        self._levels: list[float] = [*(-p for p in reversed(positive)), 0.0, *positive]

    @property
    def anchor(self) -> int:
        """Around 1 a posit has the most fraction bits, at its largest value none."""
        return 0

    @property
    def _largest(self) -> float:
        return 2.0 - 2.0 ** (self.es + 3 - self.bits)  # sign, two bits of regime, es of exponent: the rest is fraction

    @property
    def high(self) -> float:
        return 2.0**self.top_exponent

    def _nearest(self, y: Tensor) -> Tensor:
        number, unit, odd = self._fixed_point(y)
        rounded = self._float((number + ((unit >> 1) - 1 + odd)) & -unit, y)
        rounded = torch.where(y < 0, -rounded, rounded)
        return _keep_nan(torch.where(y == 0, 0.0, rounded), y)

    def _floor(self, y: Tensor) -> Tensor:
        return _keep_nan(self._below(y), y)

    def _ceil(self, y: Tensor) -> Tensor:
        return _keep_nan(0.0 - self._below(-y), y)

    def _directed(self, y: Tensor, up: Tensor) -> Tensor:
        below = self._below(torch.where(up, -y, y))
        return _keep_nan(torch.where(up, 0.0 - below, below), y)

    def _below(self, y: Tensor) -> Tensor:
        """The level at or below y, saturated; anything for a nan."""
        number, unit, _ = self._fixed_point(y)
        negative = y < 0
        level = self._float((number + torch.where(negative, unit - 1, 0)) & -unit, y)
        return torch.where(negative, -level, torch.where(y < 1 / self.high, 0.0, level))

    def _fixed_point(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """|y| within the nonzero levels, as the integer of its exponent and fraction; what the last bit of y's code
        counts in that integer; and that bit itself, 0 or 1."""
        integer, fraction, bias = _LAYOUT[y.dtype]
        number = y.abs().clamp(1 / self.high, self.high).view(integer) - (bias << fraction)
        regime = number >> (fraction + self.es)
        # The regime takes 2 bits and one more for each step; the longest two leave nothing behind themselves.
        steps = (regime ^ (regime >> 31)).clamp(max=self.bits - 3)
        unit = 1 << (steps + (fraction + self.es - (self.bits - 3)))
        # Where the regime fills the code, its last bit is the one that ends the run.
        odd = torch.where(steps == self.bits - 3, regime < 0, (number & unit) != 0)
        return number, unit, odd.to(integer)

    @staticmethod
    def _float(number: Tensor, y: Tensor) -> Tensor:
        _, fraction, bias = _LAYOUT[y.dtype]
        return (number + (bias << fraction)).view(y.dtype)


def posit_value(code: int, bits: int, es: int) -> float:
    """The value of a positive posit code: useed**regime * 2**exponent * (1 + fraction), useed = 2**2**es."""
    word = f"{code:0{bits - 1}b}"  # without the sign bit
    run = len(word) - len(word.lstrip(word[0]))
    regime = run - 1 if word[0] == "1" else -run
    rest = word[run + 1 :]
    exponent = int((rest[:es] + "0" * es)[:es] or "0", 2)  # exponent bits cut off at the right are zeros
    fraction = rest[es:]
    significand = 1.0 + (int(fraction, 2) / 2 ** len(fraction) if fraction else 0.0)
    return significand * 2.0 ** (regime * 2**es + exponent)


def _keep_nan(rounded: Tensor, y: Tensor) -> Tensor:
    return torch.where(y != y, y, rounded)  # isnan would not be vectorized when compiled
