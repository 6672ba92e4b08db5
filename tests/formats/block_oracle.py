"""What block formats should do, slowly: plain Python, exact fractions, written from the definitions alone.

Numbers are fractions; None is nan, and infinities are those of float. Nothing here imports lpt or torch. FP32
arithmetic is that of fractions, rounded by `fl32` after each operation.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product

from .oracle import TWO, Grid

Number = Fraction | float | None
LARGEST = TWO**128 - TWO**104


def octave(x: Fraction) -> int:
    """L of x = 2**L * f, 1 <= f < 2."""
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if TWO**guess <= x else guess - 1


def fl32(x: Fraction) -> Fraction:
    """The float32 nearest to x, ties to even; the largest one where float32 would overflow."""
    if x == 0:
        return x
    step = TWO ** (max(octave(abs(x)), -126) - 23)
    return max(-LARGEST, min(LARGEST, round(x / step) * step))


@dataclass(frozen=True)
class Element:
    """A grid, and how many fraction bits its top octave has."""

    grid: Grid
    fraction_bits: int

    @property
    def high(self) -> Fraction:
        return self.grid.levels[-1]


def amax_of(block: Iterable[Number]) -> Fraction:
    """The largest finite magnitude: nan and infinities do not count."""
    return max((abs(x) for x in block if isinstance(x, Fraction)), default=Fraction(0))


def rounded(x: Number, grid: Grid, how: str, scaled: Fraction | None) -> Fraction | None:
    """x, which scaling made `scaled`, on the grid: nan stays, infinities saturate.

    What scaling makes zero still lies on its side of zero, for floor and ceil.
    """
    if x is None:
        return None
    if isinstance(x, float):
        return grid.levels[-1] if x > 0 else grid.levels[0]
    return getattr(grid, how)(scaled or x / TWO**400)


# -- power-of-two scales ---------------------------------------------------------------------------------------


def exponent(amax: Fraction, element: Element, rule: str, room: int = 0, least: int = -127) -> int:
    if amax == 0:
        return least
    emax = octave(element.high)
    e = octave(amax)
    f = amax / TWO**e
    up = {
        "floor": False,
        "even": f >= 2 - TWO ** -(element.fraction_bits + 1),
        "ceil": f > 1,
        "rceil": f > element.high / TWO**emax,
    }[rule]
    return max(least, min(127, e - emax + room + up))


def power_of_two(block: Sequence[Number], element: Element, rule: str, how: str = "nearest") -> list[Fraction | None]:
    scale = TWO ** exponent(amax_of(block), element, rule)
    scaled = [x / scale if isinstance(x, Fraction) else None for x in block]
    levels = [rounded(x, element.grid, how, y) for x, y in zip(block, scaled, strict=True)]
    return [None if q is None else q * scale for q in levels]


# -- real scales -----------------------------------------------------------------------------------------------


def real_scale(amax: Fraction, element: Element) -> Fraction:
    return max(fl32(amax / element.high), TWO**-126)


def real(block: Sequence[Number], element: Element, how: str = "nearest") -> list[Fraction | None]:
    scale = real_scale(amax_of(block), element)
    scaled = [fl32(x / scale) if isinstance(x, Fraction) else None for x in block]
    levels = [rounded(x, element.grid, how, y) for x, y in zip(block, scaled, strict=True)]
    return [None if q is None else fl32(q * scale) for q in levels]


# -- a small float under a factor of the tensor ------------------------------------------------------------------


def tensor_factor(amax: Fraction, element: Element) -> Fraction:
    """G: 448 * high / amax; of a tensor of zeros the largest float32."""
    return LARGEST if amax == 0 else fl32(448 * element.high / amax)


def block_scale(amax: Fraction, factor: Fraction, element: Element, floats: Grid, least: Fraction) -> Fraction:
    """b: the small float nearest to amax * (G * (1 / high))."""
    multiplier = fl32(factor * fl32(1 / element.high))
    return floats.nearest(max(fl32(amax * multiplier), least))


def two_level(
    block: Sequence[Number], element: Element, b: Fraction, factor: Fraction, how: str = "nearest"
) -> list[Fraction | None]:
    """q * b / G, where q is x * min(1 / (b * (1 / G)), largest) on the grid. The levels of a Table may have so many
    bits that q * b has to be rounded; those of small floats and integers have not."""
    decode = fl32(b * fl32(1 / factor))
    encode = LARGEST if decode == 0 else fl32(1 / decode)
    scaled = [fl32(x * encode) if isinstance(x, Fraction) else None for x in block]
    levels = [rounded(x, element.grid, how, y) for x, y in zip(block, scaled, strict=True)]
    return [None if q is None else fl32(fl32(q * b) / factor) for q in levels]


# -- where blocks lie --------------------------------------------------------------------------------------------


def blocks_of(shape: Sequence[int], block: Sequence[int], dim: int) -> Iterator[list[tuple[int, ...]]]:
    """The indices of each block's elements: `block[-1]` along `dim`, `block[0]` of a tile along the one before it."""
    dim %= len(shape)
    sizes = [1] * len(shape)
    if len(block) == 2 and len(shape) > 1:
        sizes[dim - 1] = block[0]
    sizes[dim] = block[-1]
    for first in product(*(range(0, n, size) for n, size in zip(shape, sizes, strict=True))):
        yield [*product(*(range(a, min(a + s, n)) for a, s, n in zip(first, sizes, shape, strict=True)))]


def number(x: float) -> Number:
    return None if math.isnan(x) else x if math.isinf(x) else Fraction(x)
