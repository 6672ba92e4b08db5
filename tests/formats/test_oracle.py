"""The array form of the oracle makes the same decisions as its plain fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest

from .grids import BYTE_NAMES, ODD_LISTS, ODD_TABLE, Fast, critical, grid_of, random_bits, specials
from .oracle import Grid, octaves, posit_value, table

GRIDS = {
    **{name: lambda name=name: grid_of(name) for name in BYTE_NAMES},
    **{str(v): lambda v=v: octaves(v) for v in ODD_LISTS},
    "odd table": lambda: table(ODD_TABLE),
}


@pytest.mark.parametrize("name", GRIDS)
def test_arrays_agree_with_fractions(name: str) -> None:
    grid: Grid = GRIDS[name]()
    fast = Fast(grid)
    scale = {0: 0, 1: -130, 2: 57}[len(name) % 3]
    x = np.concatenate([critical(fast, scale, 1), random_bits(200, 1), specials()])
    x = np.random.default_rng(2).permutation(x[np.isfinite(x)])[:300]
    expected = {"round": grid.nearest, "floor": grid.floor, "ceil": grid.ceil}
    for op, decide in expected.items():
        levels = [decide(Fraction(float(v)) / Fraction(2) ** scale) for v in x]
        got = getattr(fast, op)(x.astype(np.float64), scale)
        assert [Fraction(float(v)) for v in got] == [level * Fraction(2) ** scale for level in levels], op
    if len(grid.levels) <= 256:
        codes = [grid.code(grid.nearest(Fraction(float(v)) / Fraction(2) ** scale)) for v in x]
        assert fast.encode(x, scale).tolist() == codes


def test_definitions_by_hand() -> None:
    log = octaves([1, 1, 1])  # 0, 1/4, 1/2, 1
    half = Fraction(1, 2)
    assert [log.nearest(v) for v in (3 * half**2, 3 * half**3, half**3, half**3 + half**30)] == [1, half, 0, half**2]
    assert log.floor(-half + half**9) == -half and log.ceil(-half + half**9) == -(half**2)
    assert (log.floor(half**9), log.ceil(half**9), log.floor(-(half**9)), log.ceil(-(half**9))) == (
        0, half**2, -(half**2), 0,
    )  # fmt: skip
    assert log.nearest(Fraction(99)) == log.floor(Fraction(99)) == 1 and log.ceil(Fraction(-99)) == -1
    # posit(8, 1): 0 10 1 0000 = 2, 0 1111111 = useed**6 = 4096, 0 0000001 = 4**-6, 0 110 1 010 = 4 * 2 * 1.25
    codes = {0b01010000: 2, 0b01111111: 4096, 1: Fraction(1, 4096), 0b01101010: 10, 0b01000000: 1, -0b01000000: -1}
    assert {c: posit_value(c, 8, 1) for c in codes} == codes
    assert math.log2(posit_value(0x7F, 8, 0)) == 6 and math.log2(posit_value(0x7F, 8, 2)) == 24
