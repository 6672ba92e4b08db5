"""The oracle's grid of every named format, and the oracle's decisions over whole arrays.

An array is decided by exact search: levels, ties and scaled inputs are float64 numbers here, without rounding,
which `Fast` checks for the former and which holds for every float32 and scale. `test_oracle` compares it with
the plain fractions.
"""

import math
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .oracle import Grid, octaves, posit, table

FP1XY = {f"fp1{x}{y}": [y + 1] * (2**x - 1) + list(range(y, 0, -1)) for x in range(1, 8) for y in range(8 - x) if y < 7}
INTS = {f"int{b}": list(range(b - 1, 0, -1)) for b in range(2, 9)}
LOGS = {"log2": [1], "log3": [1] * 3, "log4": [1] * 7}
LISTS = {**FP1XY, **INTS, **LOGS}

# name: valid bits, exponent of the top octave, levels missing at the top
NATURAL = {
    "ocp_e4m3": ([4] * 15 + [3, 2, 1], 8, 1),
    "ocp_e5m2": ([3] * 30 + [2, 1], 15, 0),
    "ocp_e3m2": ([3] * 7 + [2, 1], 4, 0),
    "ocp_e2m3": ([4] * 3 + [3, 2, 1], 2, 0),
    "ocp_e2m1": ([2] * 3 + [1], 2, 0),
    "ieee_e5m2": ([3] * 30 + [2, 1], 15, 0),
    "ieee_e4m3": ([4] * 14 + [3, 2, 1], 7, 0),
    "ieee_e3m4": ([5] * 6 + [4, 3, 2, 1], 3, 0),
}
WIDE = {
    "bf16": ([8] * 254 + [7, 6, 5, 4, 3, 2, 1], 127, 0),
    "fp16": ([11] * 30 + [10, 9, 8, 7, 6, 5, 4, 3, 2, 1], 15, 0),
    "fp169": ([10] * 63 + [9, 8, 7, 6, 5, 4, 3, 2, 1], 32, 0),
}
POSITS = [f"posit8_{es}" for es in range(3)]
FULL = [f"int{b}_full" for b in range(2, 9)]
FIXED = [f"fixed8_{f}" for f in range(8)]
BYTE_NAMES = [*LISTS, *FULL, *FIXED, *POSITS, *NATURAL]  # every named format that has codes
ODD_LISTS = [[7, 6, 5, 5, 4, 3, 2, 1], [5, 5, 3, 2, 1], [4, 5, 5, 2], [4, *[5] * 7, 3, 2, 1], [1, 9], [9, 1], [13, 1]]
ODD_TABLE = np.float32([-3.0, -1.7, -0.3, 0.0, 2.0**-9, 0.1, 0.3, 1.0, 1.0 + 2.0**-23, 5.5, 1e4]).tolist()
LARGE_TABLE = np.float32([i * abs(i) / 7 for i in range(-100, 101)]).tolist()


@cache
def grid_of(name: str) -> Grid:
    if name in LISTS:
        return octaves(LISTS[name])
    if name in NATURAL or name in WIDE:
        return octaves(*(NATURAL | WIDE)[name])
    if name in POSITS:
        return posit(8, int(name[-1]))
    if name in FULL:
        return octaves(range(int(name[3]) - 1, 0, -1), low_extra=True)
    if name in FIXED:  # multiples of 2**-f from -128 to 127
        return table([k * 2.0 ** -int(name[-1]) for k in range(-128, 128)])
    raise KeyError(name)


class Fast:
    """A grid's decisions over arrays of any float dtype, exact in float64."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.levels = _exact(grid.levels)
        self.ties = _exact(grid.ties)
        self.up = np.array(grid.tie_goes_up)
        self.zero = grid.levels.index(Fraction(0))

    def round(self, x: np.ndarray, scale=0) -> np.ndarray:
        return self._results(x, scale, self._nearest)

    def floor(self, x: np.ndarray, scale=0) -> np.ndarray:
        return self._results(x, scale, self._floor)

    def ceil(self, x: np.ndarray, scale=0) -> np.ndarray:
        return self._results(x, scale, self._ceil)

    def encode(self, x: np.ndarray, scale=0) -> np.ndarray:
        rank = self._nearest(_at_scale_0(x, scale)) - self.zero
        codes = np.where(rank < 0, 0x80 | -rank, rank)
        return np.where(np.isnan(x), 0x80, codes).astype(np.uint8)

    def _nearest(self, y: np.ndarray) -> np.ndarray:
        i = self._floor(y)
        j = np.minimum(i, len(self.ties) - 1)
        up = (y > self.ties[j]) | ((y == self.ties[j]) & self.up[j])
        if self.grid.never_zero:
            up = np.where(i == self.zero, y > 0, np.where(i == self.zero - 1, False, up))
        exact = (y <= self.levels[0]) | (y == self.levels[i]) | (i == len(self.levels) - 1)
        return np.where(exact, i, i + up)

    def _floor(self, y: np.ndarray) -> np.ndarray:
        return np.maximum(np.searchsorted(self.levels, y, side="right") - 1, 0)

    def _ceil(self, y: np.ndarray) -> np.ndarray:
        return np.minimum(np.searchsorted(self.levels, y, side="left"), len(self.levels) - 1)

    def _results(self, x: np.ndarray, scale, decide) -> np.ndarray:
        """Levels times 2**scale, each rounded once to float32 or float64 where it is not such a number already."""
        i = decide(np.nan_to_num(_at_scale_0(x, scale), nan=0.0, posinf=np.inf, neginf=-np.inf))
        with np.errstate(all="ignore"):
            out = np.ldexp(self.levels[i], scale).astype(x.dtype)
        return np.where(np.isnan(x), x, out)


def _at_scale_0(x: np.ndarray, scale) -> np.ndarray:
    """x / 2**scale, exact for every float32 x; for tiny float64 x at least on the right side of zero."""
    with np.errstate(all="ignore"):
        y = np.ldexp(wide(x), np.negative(scale))
    return np.where((y == 0) & (x != 0), np.copysign(5e-324, x), y)


def wide(x: np.ndarray) -> np.ndarray:
    """As float64. Random patterns hold signalling nans, at which numpy would warn."""
    with np.errstate(invalid="ignore"):
        return x.astype(np.float64)


def _exact(fractions: list[Fraction]) -> np.ndarray:
    floats = [float(f) for f in fractions]
    assert all(Fraction(a) == b for a, b in zip(floats, fractions, strict=True))
    return np.array(floats)


# -- inputs ---------------------------------------------------------------------------------------------------


def specials() -> np.ndarray:
    tiny, largest = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    normal = np.finfo(np.float32).tiny
    values = [0.0, tiny, 3 * tiny, np.nextafter(normal, np.float32(0)), normal, 1.0, 1.5, 2.0**100, largest, np.inf]
    return np.array([s * v for v in values for s in (1, -1)] + [np.nan], dtype=np.float32)


def random_bits(n: int, seed: int) -> np.ndarray:
    """Uniform over all 2**32 bit patterns of float32: every exponent equally often, nans and infinities too."""
    return np.random.default_rng(seed).integers(0, 2**32, n, dtype=np.uint32).view(np.float32)


def critical(fast: Fast, scale: int = 0, ulps: int = 3) -> np.ndarray:
    """Every level and every tie at `scale` as float32, and their float32 neighbours up to `ulps` away."""
    midpoints = np.array([float((a + b) / 2) for a, b in pairwise(fast.grid.levels)])
    with np.errstate(over="ignore", under="ignore"):
        centres = np.ldexp(np.concatenate([fast.levels, fast.ties, midpoints]), scale).astype(np.float32)
    down = up = centres
    parts = [centres]
    for _ in range(ulps):
        down, up = np.nextafter(down, np.float32(-np.inf)), np.nextafter(up, np.float32(np.inf))
        parts += [down, up]
    return np.unique(np.concatenate(parts))


# -- comparing ------------------------------------------------------------------------------------------------


def bits_of(x: Tensor) -> np.ndarray:
    """The bit patterns, every nan being the same; integers as they are."""
    if not x.is_floating_point():
        return x.numpy()
    integer = {torch.float32: torch.int32, torch.float64: torch.int64}.get(x.dtype, torch.int16)
    return torch.where(x.isnan(), torch.full_like(x, math.nan), x).contiguous().view(integer).numpy()


def assert_same(got: Tensor, expected: Tensor | np.ndarray, x: Tensor | np.ndarray | None, message: str) -> None:
    """The same bits. `x`, where there is an input for each element, is shown in the message."""
    expected = torch.as_tensor(expected)
    assert got.dtype == expected.dtype and got.shape == expected.shape, message
    wrong = np.argwhere(bits_of(got) != bits_of(expected))
    if len(wrong):
        at = tuple(wrong[0])
        shown = f" {x[at]!r}" if x is not None else ""
        raise AssertionError(f"{message}: {len(wrong)} differ, first {at}{shown}: {got[at]!r}, not {expected[at]!r}")
