"""Random octave lists, valid bits in any order: the oracle's answers, and what must hold of any rounding."""

from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpt.formats import Octaves, get

from .grids import Fast, critical, random_bits, specials
from .oracle import octaves

LISTS = st.lists(st.integers(1, 9), min_size=1, max_size=40)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def inputs(fast: Fast, scale: int, seed: int, n: int) -> np.ndarray:
    near = np.random.default_rng(seed).choice(critical(fast, scale, 2), n)
    return np.sort(np.concatenate([near, random_bits(n, seed), specials()]))


@given(LISTS, st.integers(-140, 130), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_random_lists_are_exact(valid_bits: list[int], scale: int, seed: int) -> None:
    fmt, fast = get(valid_bits), Fast(octaves(valid_bits))
    x = inputs(fast, scale, seed, 1_000)
    t = torch.from_numpy(x)
    for op in ("round", "floor", "ceil"):
        got = getattr(fmt, op)(t, scale)
        expected = torch.from_numpy(getattr(fast, op)(x, scale))
        same = (got.view(torch.int32) == expected.view(torch.int32)) | (got.isnan() & expected.isnan())
        assert same.all(), (op, x[~same.numpy()][:3], got[~same][:3], expected[~same][:3])
        assert getattr(fmt, op)(t, torch.tensor(scale))[~t.isnan()].equal(got[~t.isnan()])


@given(LISTS, st.integers(-100, 80), st.lists(FINITE, min_size=1, max_size=20))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_random_lists_against_plain_fractions(valid_bits: list[int], scale: int, values: list[float]) -> None:
    fmt, grid, unit = get(valid_bits), octaves(valid_bits), Fraction(2) ** scale
    x = torch.tensor(values)
    for op in ("round", "floor", "ceil"):
        decide = grid.nearest if op == "round" else getattr(grid, op)
        expected = [decide(Fraction(v) / unit) * unit for v in values]
        assert [Fraction(v) for v in getattr(fmt, op)(x, scale).tolist()] == expected, op


@given(LISTS, st.integers(-100, 80), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_what_holds_of_any_rounding(valid_bits: list[int], scale: int, seed: int) -> None:
    fmt = Octaves("any", valid_bits)
    x = inputs(Fast(octaves(valid_bits)), scale, seed, 500)
    x = torch.from_numpy(x[~np.isnan(x)])  # ascending
    near, low, high = fmt.round(x, scale), fmt.floor(x, scale), fmt.ceil(x, scale)
    for y in (near, low, high):
        assert (y.diff() >= 0).all()  # monotone
        for op in (fmt.round, fmt.floor, fmt.ceil):  # levels stay where they are
            assert op(y, scale).equal(y)
        assert y.abs().max() <= fmt.high * 2.0**scale
    inside = x.abs() <= fmt.high * 2.0**scale
    assert (low <= x)[inside].all() and (x <= high)[inside].all()
    assert (((near == low) | (near == high))[inside]).all()
    # The nearer of the two, in exact arithmetic; the mirror image rounds to the mirror image.
    x64, error = x.double()[inside], (near.double() - x.double()).abs()[inside]
    assert (error <= (x64 - low.double()[inside]).abs()).all() and (error <= (high.double()[inside] - x64).abs()).all()
    assert fmt.round(-x, scale).equal(-near + 0.0) and fmt.floor(-x, scale).equal(-high + 0.0)
    assert fmt.round(x.double(), scale).equal(near.double())
