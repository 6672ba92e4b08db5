"""What the formats should do, slowly: plain Python, exact fractions, written from the definitions alone.

Nothing here imports lpt. A `Grid` is a finite set of fractions with a rule for ties:

    multiple  an octave's levels are evenly spaced, and a tie goes to the even multiple of that spacing. The two
              levels around a tie are one spacing apart, also across an octave's end and in the gap around zero.
    rank      a tie goes to the level with the even rank, counted from zero (tables).
    posit     the tie lies at the value of the code between the two, one bit longer, and goes to the even code;
              what is not zero does not become zero.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

TWO = Fraction(2)


@dataclass(frozen=True)
class Grid:
    """All levels at scale 0, ascending, and for each pair of neighbours their tie and where it goes."""

    levels: list[Fraction]
    ties: list[Fraction]
    tie_goes_up: list[bool]
    never_zero: bool = False

    def nearest(self, x: Fraction) -> Fraction:
        if x <= self.levels[0]:
            return self.levels[0]
        if x >= self.levels[-1]:
            return self.levels[-1]
        i = bisect_right(self.levels, x) - 1
        low, high = self.levels[i : i + 2]
        if x == low:
            return low
        if self.never_zero and 0 in (low, high):
            return low or high
        goes_up = x > self.ties[i] or (x == self.ties[i] and self.tie_goes_up[i])
        return high if goes_up else low

    def floor(self, x: Fraction) -> Fraction:
        return self.levels[max(bisect_right(self.levels, x) - 1, 0)]

    def ceil(self, x: Fraction) -> Fraction:
        return self.levels[min(bisect_left(self.levels, x), len(self.levels) - 1)]

    def code(self, level: Fraction) -> int:
        """Sign bit, then the rank on that side of zero."""
        rank = self.levels.index(level) - self.levels.index(Fraction(0))
        return rank if rank >= 0 else 0x80 | -rank


def octaves(valid_bits: Sequence[int], top_exponent: int = 0, drop_top: int = 0, low_extra: bool = False) -> Grid:
    """v valid bits in the octave [2**k, 2**(k+1)): 2**(v-1) evenly spaced levels, mirrored, and zero."""
    positive = []
    for i, v in enumerate(valid_bits):
        for j in range(2 ** (v - 1)):
            positive.append(TWO ** (top_exponent - i) * (1 + Fraction(j, 2 ** (v - 1))))
    positive.sort()
    positive = positive[: len(positive) - drop_top]
    extra = [-(TWO ** (top_exponent + 1))] if low_extra else []
    levels = [*extra, *(-p for p in reversed(positive)), Fraction(0), *positive]
    return _between(levels, lambda i: (levels[i + 1] / (levels[i + 1] - levels[i])) % 2 == 0)


def table(values: Sequence[float]) -> Grid:
    levels = [Fraction(v) for v in values]
    zero = levels.index(Fraction(0))
    return _between(levels, lambda i: (i + 1 - zero) % 2 == 0)


def _between(levels: list[Fraction], tie_goes_up) -> Grid:
    pairs = range(len(levels) - 1)
    return Grid(levels, [(levels[i] + levels[i + 1]) / 2 for i in pairs], [tie_goes_up(i) for i in pairs])


def posit(bits: int, es: int) -> Grid:
    """Codes are two's complement integers: -c is minus the value of c, 0 is zero, -2**(bits-1) is not a real."""
    codes = range(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))
    levels = [posit_value(c, bits, es) for c in codes]
    ties = [posit_value(2 * c + 1, bits + 1, es) for c in codes[:-1]]
    return Grid(levels, ties, [(c + 1) % 2 == 0 for c in codes[:-1]], never_zero=True)


def posit_value(code: int, bits: int, es: int) -> Fraction:
    """Read bit by bit: a run of equal regime bits and its stop bit, `es` exponent bits, then the fraction."""
    if code <= 0:
        return -posit_value(-code, bits, es) if code else Fraction(0)
    word = [code >> i & 1 for i in reversed(range(bits - 1))]
    first, run = word[0], 0
    while word and word[0] == first:
        word.pop(0)
        run += 1
    word = word[1:]  # the stop bit, where there is room for one
    regime = run - 1 if first else -run
    exponent = 0
    for _ in range(es):
        exponent = 2 * exponent + (word.pop(0) if word else 0)
    fraction, weight = Fraction(1), Fraction(1, 2)
    for bit in word:
        fraction += bit * weight
        weight /= 2
    return TWO ** (regime * 2**es + exponent) * fraction


def partitions(total: int, largest: int) -> set[tuple[int, ...]]:
    """Every way to write `total` as a sum of powers of two up to 2**largest, as exponents in falling order."""
    found: set[tuple[int, ...]] = set()
    if total == 0:
        return {()}
    for e in range(largest + 1):
        if 2**e <= total:
            found |= {(e, *rest) for rest in partitions(total - 2**e, e)}
    return found
