"""Scales: the exponent of the largest finite magnitude, against math.frexp; and multiplication by powers of two."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lpt.formats import get, scale_of
from lpt.formats.scaling import NO_SCALE, amax_of, exponent_of, times_power_of_two

from .grids import random_bits

FLOATS = st.floats(width=32)  # infinities, nans and subnormals among them


def oracle(values: list[float], room: int = 0) -> int:
    finite = [abs(v) for v in values if math.isfinite(v)]
    largest = max(finite, default=0.0)
    if largest == 0:
        return -127
    return max(math.frexp(largest)[1] - 1, -127) + room  # frexp's mantissa lies in [1/2, 1)


@given(st.lists(FLOATS, max_size=12), st.integers(0, 3))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_per_tensor(values: list[float], room: int) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    for shaped, shape in ((x, (1,)), (x[:, None, None], (1, 1, 1))):
        scale = scale_of(shaped, room=room)
        assert scale.dtype == torch.int32 and scale.shape == shape
        assert scale.item() == oracle(values, room)
    assert scale_of(x.double(), room=room).item() == oracle(values, room)


@given(st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=1, max_size=5), st.integers(0, 2))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_per_channel(rows: list[list[float]], room: int) -> None:
    x = torch.tensor(rows, dtype=torch.float32)
    expected = [oracle(row, room) for row in rows]
    for view, dim, shape in [
        (x, 0, (len(rows), 1)),
        (x, -2, (len(rows), 1)),
        (x.T, 1, (1, len(rows))),
        (x.T.contiguous(), -1, (1, len(rows))),
        (x[:, :, None, None], 0, (len(rows), 1, 1, 1)),
    ]:
        scale = scale_of(view, dim, room)
        assert scale.shape == shape and scale.flatten().tolist() == expected
    assert scale_of(x[:, 0], 0, room).tolist() == [oracle([row[0]], room) for row in rows]


@given(st.lists(st.floats(), max_size=6))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_float64(values: list[float]) -> None:
    assert scale_of(torch.tensor(values, dtype=torch.float64)).item() == oracle(values)


def test_powers_of_two_and_their_neighbours() -> None:
    for e in range(-126, 128):
        power = np.float32(2.0**e)
        below, above = np.nextafter(power, np.float32(0)), np.nextafter(power, np.float32(np.inf))
        for sign in (1, -1):
            got = [scale_of(torch.tensor([sign * v])).item() for v in (below, power, above)]
            assert got == [e - 1, e, e]
        doubles = [np.nextafter(2.0**e, 0), 2.0**e, np.nextafter(2.0**e, np.inf)]
        assert [scale_of(torch.tensor([v])).item() for v in doubles] == [e - 1, e, e]


def test_every_exponent_of_every_dtype() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
        assert scale_of(x, 0).tolist() == [oracle([v]) for v in x.tolist()]
    x = torch.from_numpy(random_bits(20_000, 1))
    assert scale_of(x, 0).tolist() == [oracle([v]) for v in x.tolist()]


# x                            scale   why
EDGES = [
    ([0.0, -0.0], -127, "zeros"),
    ([], -127, "no elements"),
    ([math.inf, -math.inf, math.nan], -127, "nothing finite"),
    ([math.inf, 3.0, math.nan], 1, "the finite ones count"),
    ([1e-45], -127, "a subnormal reads as -127, so that no scale is below the sentinel"),
    ([2.0**-126], -126, "the smallest normal"),
    ([3.4028234663852886e38], 127, "the largest"),
]


@pytest.mark.parametrize("values, expected, why", EDGES, ids=[why for *_, why in EDGES])
def test_edges(values: list[float], expected: int, why: str) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    assert scale_of(x).item() == expected
    room = 2 if x.nan_to_num(0, 0, 0).any() else 0  # the sentinel takes no room
    assert scale_of(x, room=2).item() == expected + room
    for fmt in (get("fp134"), get("posit8_1"), get("ocp_e4m3"), get("int8_full")):
        rounded = fmt.round(x, fmt.scale_of(x))
        assert (rounded[x == 0] == 0).all() and ((rounded != 0) | (x.abs() < 2.0**-126) | x.isnan()).all()


def test_shapes_of_nothing() -> None:
    assert scale_of(torch.tensor(5.0)).shape == () and scale_of(torch.tensor(5.0)).item() == 2
    assert scale_of(torch.empty(3, 0), 0).tolist() == [[-127]] * 3
    assert scale_of(torch.empty(3, 0), 1).shape == (1, 0)
    assert scale_of(torch.empty(0, 4)).tolist() == [[-127]]
    assert scale_of(torch.ones(2, 3).T.requires_grad_()).requires_grad is False


@pytest.mark.parametrize("dim", [2, -3, 7])
def test_no_such_channel(dim: int) -> None:
    with pytest.raises(ValueError, match=rf"channel_dim={dim} is not a dimension of a tensor of shape \(2, 3\)"):
        scale_of(torch.ones(2, 3), dim)


def test_the_largest_value_never_saturates() -> None:
    """At its own scale a tensor's largest value lies in the anchor octave; with room 1 in the one below."""
    x = torch.from_numpy(random_bits(4_000, 5))
    x = x[x.isfinite() & (x.abs() > 2.0**-100) & (x.abs() < 2.0**120)]
    for name in ("fp134", "int8", "log4", "ocp_e4m3", "ieee_e3m4", "posit8_1"):
        fmt = get(name)
        top = 2.0**fmt.anchor
        for room in (0, 1, 2):
            scale = fmt.scale_of(x, 0, room)
            assert scale.dtype == torch.int32
            at_scale_0 = x.abs().double() * 2.0 ** -scale.double()
            assert (at_scale_0 >= top * 2.0**-room).all() and (at_scale_0 < top * 2.0 ** (1 - room)).all()


def test_scales_of_natural_and_unscaled_formats() -> None:
    x = torch.tensor([[1.0, 448.0], [0.0, 0.0]])
    assert get("ocp_e4m3").scale_of(x).item() == 0  # as the standard has it: 448 is the largest value
    assert get("ocp_e4m3").scale_of(x, 0).tolist() == [[0], [NO_SCALE]]
    assert get("posit8_1").scale_of(x, 0, 1).tolist() == [[8 + 1], [NO_SCALE]]
    assert get("fp134").scale_of(x, 0).tolist() == [[8], [NO_SCALE]]
    for name in ("fp32", "bf16", "fp16", "fp169", "fixed8_4"):
        assert get(name).scale_of(x, 0, 2).tolist() == [[0], [0]] and get(name).scale_of(x).dtype == torch.int32
    exponent = torch.tensor([3, NO_SCALE], dtype=torch.int32)
    assert get("ocp_e5m2").scale_for(exponent).tolist() == [3 - 15, NO_SCALE]


def test_amax_and_exponent() -> None:
    x = torch.tensor([[-8.0, math.inf], [math.nan, 0.0]])
    assert amax_of(x).tolist() == [[8.0]] and amax_of(x, 0).tolist() == [[8.0], [0.0]]
    assert exponent_of(torch.tensor([8.0, 0.0, 1e-40]), 1).tolist() == [4, NO_SCALE, NO_SCALE + 1]
    assert amax_of(x.bfloat16()).dtype == torch.float32 and amax_of(x.double()).dtype == torch.float64


def test_times_power_of_two() -> None:
    rng = np.random.default_rng(0)
    x = random_bits(5_000, 2)
    x = x[np.isfinite(x)]
    t = torch.from_numpy(x)
    exponents = rng.integers(-252, 255, len(x)).astype(np.int32)
    with np.errstate(all="ignore"):
        expected = np.ldexp(x.astype(np.float64), exponents)
    inside = (np.abs(expected) >= 2.0**-126) & (np.abs(expected) < 2.0**128)
    got = times_power_of_two(t, torch.from_numpy(exponents))
    assert got[inside].double().numpy().tolist() == expected[inside].tolist() and inside.sum() > 1_000
    assert (got[np.abs(expected) >= 2.0**128].isinf()).all()
    for i in range(500):
        assert times_power_of_two(t[i], int(exponents[i])).equal(got[i])
    wide = rng.integers(-2044, 2047, len(x)).astype(np.int64)
    with np.errstate(all="ignore"):
        expected = np.ldexp(x.astype(np.float64), wide)
    inside = (np.abs(expected) >= 2.0**-1022) & np.isfinite(expected)
    got = times_power_of_two(t.double(), torch.from_numpy(wide)).numpy()
    assert got[inside].tolist() == expected[inside].tolist()


def test_float64_beyond_float32() -> None:
    """A float64 tensor may have scales that no float32 tensor has."""
    x = torch.tensor([1.03e300, -3e299], dtype=torch.float64)
    scale = scale_of(x)
    assert scale.item() == math.frexp(1.03e300)[1] - 1
    got = get("fp134").round(x, scale)
    assert ((got - x).abs() <= x.abs() / 32).all() and get("fp134").round(got, int(scale)).equal(got)


# -- scale rules: when a largest value counts to the octave above ---------------------------------------------------


def moves_up(name: str, rule: str, f: Fraction) -> bool:
    """Whether a largest significand f, from 1 to below 2, counts to the octave above; by exact arithmetic."""
    fmt = get(name)
    octave = Fraction(2) ** fmt.anchor
    levels = [Fraction(v) / octave for v in fmt.values().tolist() if octave <= v < 2 * octave]
    if rule == "rounded":  # to the nearest level of the whole octave, the next octave's first included; ties to even
        step = min(b - a for a, b in pairwise([*levels, Fraction(2)])) if len(levels) > 1 else Fraction(2) - levels[0]
        below = f // step
        rest = f - below * step
        return (below + (rest > step / 2 or (rest == step / 2 and below % 2 == 1))) * step >= 2
    return {"floor": False, "ceil": f > 1, "rceil": f > max(levels)}[rule]


@pytest.mark.parametrize("rule", ["floor", "rounded", "ceil", "rceil"])
@pytest.mark.parametrize(
    "name", ["fp134", "fp152", "int8", "int4", "int4_full", "log4", "log3", "ocp_e4m3", "ocp_e5m2", "ocp_e2m1",
             "ocp_e2m3", "ocp_e3m2", "ieee_e3m4", "posit8_0", "posit8_1", "posit8_2", "2x6,3x5,4,3,2,1"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scale_rules_at_every_threshold(name: str, rule: str, dtype: torch.dtype) -> None:
    """On every level and midpoint of the octave, beside them, and in between; at several exponents."""
    fmt = get(name)
    octave = 2.0**fmt.anchor
    levels = [v / octave for v in fmt.values().tolist() if octave <= v < 2 * octave] + [2.0]
    points = torch.tensor([*levels, *((a + b) / 2 for a, b in pairwise(levels)), 1.9375, 1.75, 1.5], dtype=dtype)
    beside = [torch.nextafter(points, torch.full_like(points, to)) for to in (0.0, 9.0)]
    f = torch.cat([points, *beside, 1 + torch.rand(200, dtype=dtype, generator=torch.Generator().manual_seed(0))])
    f = f[(f >= 1) & (f < 2)]
    expected = [moves_up(name, rule, Fraction(value)) for value in f.tolist()]
    assert rule == "floor" or {*expected} == {False, True}
    for exponent in (-100, -3, 0, 5, 120):
        x = (f * 2.0**exponent)[:, None]
        for room in (0, 2):
            got = fmt.scale_of(torch.cat([-x, x / 2], 1), 0, room, rule)[:, 0] + fmt.anchor - exponent - room
            assert got.tolist() == expected


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="scale_rule='up' is not one of floor, rounded, ceil, rceil"):
        get("fp134").scale_of(torch.ones(3), rule="up")


def test_a_maximum_that_moves_up_needs_no_saturation() -> None:
    """log4 at 1.6: floor saturates it to 1, rounded keeps it as 2."""
    log4, x = get("log4"), torch.tensor([1.6, 0.4])
    assert log4.round(x, log4.scale_of(x)).tolist() == [1.0, 0.5]
    assert log4.round(x, log4.scale_of(x, rule="rounded")).tolist() == [2.0, 0.5]


def test_posits_resolve_normal_data_as_well_as_floats() -> None:
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0))

    def decibels(name: str) -> float:
        fmt = get(name)
        error = x - fmt.round(x, fmt.scale_of(x))
        return 10 * math.log10(x.square().sum().item() / error.square().sum().item())

    assert decibels("posit8_0") > 33 and decibels("posit8_1") > 35 and decibels("posit8_2") > 31
    assert decibels("fp134") > 37
