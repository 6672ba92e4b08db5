"""Block formats against the oracle, bit for bit: every rule for scales, every way to round, wherever blocks lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from lpt.formats import Blocks, Table, get

from . import block_oracle as oracle
from .block_oracle import Element, Number, number
from .grids import LISTS, NATURAL, ODD_TABLE, assert_same, grid_of
from .oracle import TWO, octaves, table

MX = {
    "mxfp8_e4m3": "ocp_e4m3", "mxfp8_e5m2": "ocp_e5m2", "mxfp6_e3m2": "ocp_e3m2", "mxfp6_e2m3": "ocp_e2m3",
    "mxfp4": "ocp_e2m1", "mxint8": "int8",
}  # fmt: skip
RULES = ["floor", "even", "ceil", "rceil"]
FLOATS = {"e4m3": octaves(*NATURAL["ocp_e4m3"]), "ue5m3": octaves([4] * 30 + [3, 2, 1], 15)}
LEAST = {"e4m3": Fraction(0), "ue5m3": TWO**-17}
HOWS = {"nearest": "round", "floor": "floor", "ceil": "ceil"}


def element_of(name: str) -> Element:
    if name == "table":
        return Element(table(ODD_TABLE), 0)
    valid = LISTS[name] if name in LISTS else NATURAL[name][0]
    return Element(grid_of(name), valid[0] - 1)


def as_float32(values: Sequence[Fraction | None]) -> list[float]:
    """Of fractions; the nearest float32, overflow to infinity, as converting would."""
    found = []
    for v in values:
        v = math.nan if v is None else v
        too_large = isinstance(v, Fraction) and abs(v) >= TWO**128 - TWO**103
        found.append(math.copysign(math.inf, v) if too_large else float(v))
    return found


def expected(x: Tensor, fmt: Blocks, dim: int, how: str) -> Tensor:
    """The oracle's result for a whole tensor, of any of the kinds of scale."""
    element = element_of("table" if isinstance(fmt.element, Table) else fmt.element.name)
    numbers: dict[tuple[int, ...], Number] = {i: number(float(x[i])) for i in np.ndindex(x.shape)}
    factor = oracle.tensor_factor(oracle.amax_of(numbers.values()), element)
    out = torch.zeros(x.shape, dtype=torch.float64)
    for indices in oracle.blocks_of(x.shape, fmt.block, dim):
        block = [numbers[i] for i in indices]
        if fmt.scale == "e8m0":
            values = oracle.power_of_two(block, element, fmt.rule, how)
        elif fmt.scale == "fp32":
            values = oracle.real(block, element, how)
        else:
            b = oracle.block_scale(oracle.amax_of(block), factor, element, FLOATS[fmt.scale], LEAST[fmt.scale])
            values = oracle.two_level(block, element, b, factor, how)
        for i, value in zip(indices, as_float32(values), strict=True):
            out[i] = value
    return out.to(torch.float32).to(x.dtype)


def neighbours(x: np.ndarray, ulps: int = 2) -> np.ndarray:
    """Positive float32 numbers and those up to `ulps` away."""
    bits = np.float32(x).view(np.int32)[:, None] + np.arange(-ulps, ulps + 1, dtype=np.int32)
    return np.unique(np.clip(bits, 0, 0x7F7FFFFF)).astype(np.int32).view(np.float32)


def block_maxima(element: Element, exponents: Sequence[int] | range = range(-149, 128)) -> np.ndarray:
    """On and next to every threshold of every rule, in every octave of float32, subnormal ones too."""
    emax = oracle.octave(element.high)
    thetas = [1.0, 2 - 2.0 ** -(element.fraction_bits + 1), float(element.high / TWO**emax), 1.5]
    return neighbours(np.array([math.ldexp(f, e) for e in exponents for f in thetas if math.ldexp(f, e) < 2.0**128]))


# -- scales ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("element", [*MX.values(), "fp134", "log4", "int4"])
def test_exponents_at_every_threshold(element: str, rule: str) -> None:
    maxima = block_maxima(element_of(element))
    fmt = Blocks(element, 4, rule=rule)
    x = torch.from_numpy(maxima)[:, None] * torch.tensor([0.5, -1.0, 0.0, 0.25])
    wanted = [oracle.exponent(Fraction(float(m)), element_of(element), rule) for m in maxima]
    for dtype in (torch.float32, torch.float64):
        assert_same(fmt.scales(x.to(dtype)), np.int32(wanted)[:, None], None, f"{fmt.name} {dtype}")


@pytest.mark.parametrize("room", [-3, 2])
def test_room_moves_the_exponent_before_it_is_clamped(room: int) -> None:
    maxima = block_maxima(element_of("fp134"), [*range(-149, -120), -3, 0, *range(120, 128)])
    wanted = [oracle.exponent(Fraction(float(m)), element_of("fp134"), "even", room) for m in maxima]
    got = Blocks("fp134", 1, rule="even", room=room).scales(torch.from_numpy(maxima))
    assert got.tolist() == wanted


@pytest.mark.parametrize("scale", FLOATS)
@pytest.mark.parametrize("whole", [2688.0, 1.0, 3.3e-30, 7e37, 1e-38])
def test_small_floats_at_every_threshold(scale: str, whole: float) -> None:
    element = element_of("ocp_e2m1")
    factor = oracle.tensor_factor(Fraction(float(np.float32(whole))), element)
    centres = [t * element.high / factor for t in [*FLOATS[scale].ties, *FLOATS[scale].levels] if t > 0]
    centres = [float(c) for c in centres if c < Fraction(float(np.float32(whole)))]
    maxima = np.append(neighbours(np.array(centres), 3), np.float32(whole))
    maxima = maxima[maxima <= np.float32(whole)]
    fmt = Blocks("ocp_e2m1", 2, scale)
    got = fmt.scales(torch.from_numpy(maxima)[:, None] * torch.tensor([-1.0, 0.5]))
    amaxes = [Fraction(float(m)) for m in maxima]
    wanted = [oracle.block_scale(a, factor, element, FLOATS[scale], LEAST[scale]) for a in amaxes]
    assert len(maxima) > 200 or whole < 1e-30
    assert_same(got[0, :, 0], np.float32(as_float32(wanted)), maxima, fmt.name)
    assert (got[1] == float(factor)).all()


def test_real_scales() -> None:
    for element in ("ocp_e4m3", "int8", "ocp_e2m1"):
        maxima = block_maxima(element_of(element))
        amaxes = [Fraction(float(m)) for m in maxima]
        wanted = [oracle.real_scale(a, element_of(element)) for a in amaxes]
        got = Blocks(element, 1, "fp32").scales(torch.from_numpy(maxima))
        assert_same(got, np.float32(as_float32(wanted)), maxima, element)
        powers = [TWO ** oracle.exponent(a, element_of(element), "rceil", least=-126) for a in amaxes]
        assert_same(Blocks(element, 1, "fp32", "pow2").scales(torch.from_numpy(maxima)),
                    np.float32(as_float32(powers)), maxima, f"{element}, pow2")  # fmt: skip


def test_a_power_of_two_is_448_over_amax_rounded_down() -> None:
    """The way of DeepSeek-V3 and TransformerEngine, and then the reciprocal."""
    maxima = block_maxima(element_of("ocp_e4m3"), range(-110, 127))
    encode = (np.float32(448) / maxima).view(np.int32) & 0x7F800000
    got = Blocks("ocp_e4m3", 1, "fp32", "pow2").scales(torch.from_numpy(maxima))
    assert (got.numpy() == 1 / encode.view(np.float32)).all()


# -- rounding --------------------------------------------------------------------------------------------------

FORMATS = [
    *MX, "mxfp8_e4m3_rceil", "mxfp4_even", "mxint8_ceil", "nvfp4", "ocp_e2m1/16/ue5m3", "ocp_e4m3/8/fp32",
    "int4/8/fp32", "fp134/5", "log4/32", "int2/3/e8m0/rceil", "fp125/4x6", "ocp_e2m1/2x4/e4m3",
]  # fmt: skip


def patterns(shape: tuple[int, ...], seed: int) -> Tensor:
    """Blocks from subnormal to huge: an octave a row at random, elements within a few octaves of each other."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(-149, 127, shape[:-1])[..., None]
    x = rng.choice([-1, 1], shape) * np.ldexp(rng.integers(0, 64, shape) / 32.0, rows - rng.integers(0, 5, shape))
    special = rng.choice([0.0, -0.0, np.nan, np.inf, -np.inf], shape)
    return torch.from_numpy(np.where(rng.random(shape) < 0.1, special, x).astype(np.float32))


@pytest.mark.parametrize("name", FORMATS)
def test_rounding_is_the_oracles(name: str) -> None:
    fmt = get(name)
    for shape, dim in (((9, 37), -1), ((37, 6), 0), ((2, 7, 9), 1), ((33,), 0)):
        x = patterns(shape, len(shape) + dim)
        x.view(-1)[:4] = torch.tensor([1e-3, -0.0, math.nan, 1.0])
        for how, op in HOWS.items():
            assert_same(getattr(fmt, op)(x, dim), expected(x, fmt, dim, how), x, f"{name}.{op} {shape} {dim}")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_blocks_of_anything(data: st.DataObject) -> None:
    element = data.draw(st.sampled_from([*MX.values(), "fp134", "log4", "int3", "fp152", "table"]))
    block = data.draw(st.one_of(st.integers(1, 9), st.tuples(st.integers(1, 4), st.integers(1, 9))))
    scale = data.draw(st.sampled_from(["e8m0", "e4m3", "ue5m3", "fp32"]))
    # A table is no float, with whose top octave the even rule could be told.
    rule = data.draw(st.sampled_from([r for r in RULES if element != "table" or r != "even"]))
    fmt = Blocks(Table("table", ODD_TABLE) if element == "table" else element, block, scale,
                 rule if scale == "e8m0" else None)  # fmt: skip
    shape = tuple(data.draw(st.lists(st.integers(1, 11), min_size=1, max_size=3)))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    floats = st.one_of(st.floats(width=32), st.sampled_from([0.0, 1.0, 6.0, 448.0, 1.75, 2.0**-130]))
    x = torch.tensor(data.draw(st.lists(floats, min_size=math.prod(shape), max_size=math.prod(shape)))).view(shape)
    how = data.draw(st.sampled_from([*HOWS]))
    assert_same(getattr(fmt, HOWS[how])(x, dim), expected(x, fmt, dim, how), x, f"{fmt.name} {shape} {dim} {how}")
    codes, scales = fmt.encode(x, dim)
    assert_same(fmt.decode(codes, scales, dim), fmt.round(x, dim), x, f"codes of {fmt.name}")


@pytest.mark.parametrize("scale", FLOATS)
@pytest.mark.parametrize("how", HOWS)
def test_levels_of_many_bits_under_a_small_float(scale: str, how: str) -> None:
    """q * b is rounded before it is divided by G: levels of a table have all the bits of a float32."""
    fmt = Blocks(Table("table", ODD_TABLE), 2, scale)
    for x in ([-0.02619716338813305, -148878512.0], [193377216.0, 448.0], [-91713.34375, 1.0], [1.0, 2.0**-149]):
        assert_same(getattr(fmt, HOWS[how])(torch.tensor(x)), expected(torch.tensor(x), fmt, -1, how), None, f"{x}")


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "ocp_e4m3/8/fp32", "bm8_a"])
def test_scales_that_are_given(name: str) -> None:
    """The grid of another tensor of the shape, and its own."""
    fmt = get(name)
    x, other = (torch.randn(5, 70, generator=torch.Generator().manual_seed(i)) for i in range(2))
    other *= 9
    up, scale = x > 0.3, fmt.scales(x)
    assert fmt.round(x, scale=scale).equal(fmt.round(x)) and fmt.floor(x, scale=scale).equal(fmt.floor(x))
    assert fmt.directed(x, up).equal(torch.where(up, fmt.ceil(x), fmt.floor(x)))
    assert fmt.round(fmt.round(x), scale=scale).equal(fmt.round(x))
    on_other = fmt.round(x, scale=fmt.scales(other))
    low, high = fmt.floor(x, scale=fmt.scales(other)), fmt.ceil(x, scale=fmt.scales(other))
    assert ((on_other == low) | (on_other == high)).all() and not on_other.equal(fmt.round(x))
    with pytest.raises(ValueError, match="are not those of these blocks"):
        fmt.round(x[:, :3], scale=scale)
    assert not fmt.moved(scale, scale.clone(), x).any()
    changed = x.clone()
    changed[2, 5] *= 64
    block = next(i for i in oracle.blocks_of((5, 70), fmt.block, -1) if (2, 5) in i)
    moved = fmt.moved(scale, fmt.scales(changed), x)
    assert moved.shape == x.shape and all(moved[i] for i in block)
    assert name == "nvfp4" or int(moved.sum()) == len(block)  # its factor is the whole tensor's


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4", "ocp_e4m3/8/fp32", "fp125/4x6"])
def test_stochastic_rounding(name: str) -> None:
    """One of the two neighbours, and on average x."""
    fmt, generator = get(name), torch.Generator().manual_seed(3)
    x = torch.randn(12, 50, generator=generator)
    low, high = fmt.floor(x), fmt.ceil(x)
    draws = torch.stack([fmt.round(x, stochastic=generator) for _ in range(400)])
    assert ((draws == low) | (draws == high)).all()
    inside = (low <= x) & (x <= high)  # the rest saturates
    error = ((draws.mean(0) - x) / (high - low).clamp(min=1e-9) * 20)[inside & (high > low)]
    assert inside.sum() > 500 and error.abs().max() < 2.5 and error.mean().abs() < 0.1
    key = torch.tensor(7)
    assert fmt.round(x, stochastic=key).equal(fmt.round(x, stochastic=key))
    assert not fmt.round(x, stochastic=key).equal(fmt.round(x, stochastic=key + 1))


# -- blocks out of the ordinary ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [*MX, "nvfp4", "ocp_e2m1/16/ue5m3", "ocp_e4m3/8/fp32", "ocp_e4m3/8/fp32/pow2", "bm8_a"]
)
def test_blocks_of_zeros_and_of_nothing(name: str) -> None:
    fmt = get(name)
    for op in (fmt.round, fmt.floor, fmt.ceil, lambda x, dim=-1: fmt.round(x, dim, torch.tensor(1))):
        assert_same(op(torch.tensor([[0.0, -0.0] * 40] * 2)), torch.zeros(2, 80), None, name)
        for shape in ((0,), (3, 0), (0, 3), (0, 0, 2)):
            assert op(torch.empty(shape), 0).shape == shape and op(torch.empty(shape)).shape == shape
    codes, scales = fmt.encode(torch.zeros(3, 0))
    assert fmt.decode(codes, scales).shape == (3, 0)
    point = fmt.round(torch.tensor(1.0))
    assert point.shape == () and point == 1.0


@pytest.mark.parametrize("name", [*MX, "nvfp4", "ocp_e4m3/8/fp32", "bm8_a"])
def test_nan_and_infinity_leave_their_block_alone(name: str) -> None:
    fmt = get(name)
    x = torch.randn(4, 96, generator=torch.Generator().manual_seed(0))
    broken = x.clone()
    broken[1, 3], broken[2, 40], broken[2, 41] = math.nan, math.inf, -math.inf
    plain = x.clone()
    plain[1, 3] = plain[2, 40] = plain[2, 41] = 0
    got, wanted = fmt.round(broken), fmt.round(plain)
    kept = torch.ones_like(x, dtype=torch.bool)
    kept[1, 3] = kept[2, 40] = kept[2, 41] = False
    assert got[kept].equal(wanted[kept]) and got[1, 3].isnan()
    largest = fmt.decode(fmt.encode(torch.full_like(x, math.inf))[0], fmt.scales(plain))
    assert got[2, 40] == largest[2, 40] and got[2, 41] == -largest[2, 41]
    assert fmt.scales(broken).equal(fmt.scales(plain))
    assert fmt.round(torch.full((4,), math.nan)).isnan().all()


def test_dtypes() -> None:
    """A narrower input is rounded as the float32 that it is; float64 where float32 would have the same scale."""
    for name in ("mxfp8_e4m3_rceil", "nvfp4", "ocp_e4m3/8/fp32", "bm8_e"):
        fmt = get(name)
        x = torch.randn(6, 70, generator=torch.Generator().manual_seed(0))
        for dtype in (torch.bfloat16, torch.float16):
            assert_same(fmt.round(x.to(dtype)), fmt.round(x.to(dtype).float()).to(dtype), None, f"{name} {dtype}")
            assert fmt.encode(x.to(dtype))[0].equal(fmt.encode(x.to(dtype).float())[0])
        assert fmt.round(x.double()).dtype == torch.float64 and fmt.scales(x.double()).equal(fmt.scales(x))
        assert (fmt.round(x.double()).float() - fmt.round(x)).abs().max() < 1e-6
        with pytest.raises(ValueError, match="rounds floating tensors"):
            fmt.round(torch.arange(9))
    beyond = torch.tensor([1e300, -1e-300, 1.0], dtype=torch.float64)
    assert get("mxfp4").scales(beyond).tolist() == [127] and get("mxfp4").scales(beyond[1:2]).tolist() == [-127]
    assert get("nvfp4").round(beyond).isfinite().all() and get("ocp_e4m3/8/fp32").round(beyond).isfinite().all()
