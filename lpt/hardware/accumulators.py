"""How sums are held: exactly, in fixed point of T bits, or in floating point of 1 + M bits; and what a step does.

`Accumulator.step` is the reference, in Python's or numpy's integers: what the register holds next, from what it holds
and from the terms that are added. Numbers are integers in units of the terms' smallest spacing.

    exact    two's complement, as wide as the largest term and GUARD bits: 2^(GUARD - 1) terms can be summed
    fixed:T  the upper T bits of that: each term loses its lower bits (towards zero). A larger T gives more room
    fp:M     sign, an exponent field, M bits of fraction below a hidden one; the sum is rounded to nearest (ties to
             even) and saturates. Field 0 is gradual underflow at the smallest spacing; the field is as wide as `exact`
             needs
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError

GUARD = 10
Numbers = Any  # an array of int64, or of Python's integers (dtype object) where 64 bits do not hold them


@dataclass(frozen=True)
class Accumulator:
    """`kind` "exact", "fixed" or "fp"; `size` is T of fixed, M of fp, and 0 of exact."""

    kind: str
    size: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "exact" else f"{self.kind}:{self.size}"

    @classmethod
    def read(cls, text: str) -> Accumulator:
        """`exact`, `fixed:T` with 12 <= T <= 128, or `fp:M` with 1 <= M <= 52.

        Raises:
            UserError: anything else.
        """
        match = re.fullmatch(r"(exact)|fixed:(\d{1,3})|fp:(\d{1,2})", str(text).strip())
        if match and match[1]:
            return cls("exact")
        if match and match[2] and GUARD + 2 <= int(match[2]) <= 128:
            return cls("fixed", int(match[2]))
        if match and match[3] and 1 <= int(match[3]) <= 52:
            return cls("fp", int(match[3]))
        raise UserError(
            f"accumulator={text}: give exact, fixed:T (T from {GUARD + 2} to 128 bits, {GUARD} of them room for sums) "
            "or fp:M (M from 1 to 52 bits)"
        )


@dataclass(frozen=True)
class Register:
    """The accumulator's register for terms of absolute value up to `largest`."""

    accumulator: Accumulator
    largest: int

    @property
    def exact_width(self) -> int:
        return self.largest.bit_length() + GUARD

    @property
    def bits(self) -> int:
        """Flip-flops."""
        if self.accumulator.kind == "exact":
            return self.exact_width
        return self.accumulator.size if self.accumulator.kind == "fixed" else 1 + self.field + self.accumulator.size

    @property
    def dropped(self) -> int:
        """Lower bits that a fixed-point term loses."""
        return max(0, self.exact_width - self.accumulator.size) if self.accumulator.kind == "fixed" else 0

    @property
    def field(self) -> int:
        """Bits of the exponent field of fp: exponents up to those of the exact accumulator's largest sums."""
        return (max(0, self.exact_width - 1 - self.accumulator.size) + 1).bit_length()

    @property
    def dtype(self) -> Any:
        """What holds states and sums in numpy."""
        reach = (1 << self.field) + self.accumulator.size if self.accumulator.kind == "fp" else self.bits + self.dropped
        return np.int64 if max(reach, self.exact_width) < 62 else object

    def code(self, numbers: Numbers) -> Numbers:
        """The contents that hold each number, or (in fp) the nearest one."""
        if self.accumulator.kind != "fp":
            return (numbers >> self.dropped) % (1 << self.bits)
        size, numbers = self.accumulator.size, self.rounded(numbers)
        magnitude = abs(numbers)
        field = np.maximum(bit_length(magnitude) - size, 0)
        fraction = (magnitude >> np.maximum(field - 1, 0)) & ((1 << size) - 1)
        sign = np.where(numbers < 0, 1, 0).astype(self.dtype)
        return (sign << (self.bits - 1)) + (field << size) + fraction

    # -- what a state means, and the step ------------------------------------------------------------------------

    def value(self, state: Numbers) -> Numbers:
        """The number that a register's bits (an integer from 0 to 2^bits - 1) stand for."""
        if self.accumulator.kind != "fp":
            half = 1 << (self.bits - 1)
            return ((state ^ half) - half) << self.dropped
        size = self.accumulator.size
        fraction, field = state & ((1 << size) - 1), (state >> size) & ((1 << self.field) - 1)
        significand = np.where(field > 0, fraction + (1 << size), fraction)
        magnitude = significand << np.where(field > 0, field - 1, 0)
        return np.where((state >> (self.bits - 1)) & 1, -magnitude, magnitude)

    def step(self, state: Numbers, terms: Numbers) -> Numbers:
        """The next state's value.

        Args:
            state: [n] register contents.
            terms: [ways, n] what is added at this step; in floating point their sum is exact, and rounded once.
        """
        if self.accumulator.kind == "fp":
            return self.rounded(self.value(state) + terms.sum(0))
        d = self.dropped
        cut = np.sign(terms) * ((abs(terms) >> d) << d) if d else terms
        total, span = (self.value(state) + cut.sum(0)) >> d, 1 << self.bits
        return ((total + span // 2) % span - span // 2) << d

    def rounded(self, sums: Numbers) -> Numbers:
        """To 1 + M significant bits, nearest, ties to even, saturating."""
        magnitude = abs(sums)
        shift = np.maximum(bit_length(magnitude) - (1 + self.accumulator.size), 0)
        kept = magnitude >> shift
        rest, half = magnitude - (kept << shift), (1 << shift) >> 1  # (of an array of shifts)
        kept = kept + np.where((rest > half) | ((rest == half) & (shift > 0) & (kept & 1 == 1)), 1, 0)
        size = self.accumulator.size
        most = ((2 << size) - 1) << ((1 << self.field) - 2)
        return np.sign(sums) * np.minimum(kept << shift, most)


def bit_length(numbers: Numbers) -> Numbers:
    """Of integers from zero upward, each; int64 up to 2^62."""
    if numbers.dtype == object:
        return np.frompyfunc(int.bit_length, 1, 1)(numbers)
    high, low = numbers >> 31, numbers & ((1 << 31) - 1)  # each half is exact in float64
    length = np.frexp(np.where(high > 0, high, low).astype(np.float64))[1]
    return (length + np.where(high > 0, 31, 0)).astype(np.int64)
