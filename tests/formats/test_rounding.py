"""Rounding, bit for bit, against the oracle."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lpt.formats import Format, Octaves, Posit, Table, family, get

from .grids import (
    BYTE_NAMES,
    LARGE_TABLE,
    ODD_LISTS,
    ODD_TABLE,
    WIDE,
    Fast,
    assert_same,
    bits_of,
    critical,
    grid_of,
    random_bits,
    specials,
    wide,
)
from .oracle import octaves, posit, table

OPS = ("round", "floor", "ceil")
SCALES = [-140, -139, -128, -127, -126, -65, -9, -1, 0, 1, 12, 64, 101, 125, 126, 127, 128, 129, 130]

WIDE_TABLE = [0.0, 2.0**-149, 2.0**-140, 5 * 2.0**-130, 2.0**-95, 2.0**-50, 1.0, 2.0**45, 2.0**90, 1.5 * 2.0**126]
OTHERS = {
    **{str(v): (lambda v=v: get(v), lambda v=v: octaves(v)) for v in ODD_LISTS},
    "log127": (lambda: get([1] * 127), lambda: octaves([1] * 127)),  # done in double: 2**-127 is the lowest tie
    "126 octaves": (lambda: get([1] * 125 + [10]), lambda: octaves([1] * 125 + [10])),  # the most for float32
    "high tops": (lambda: Octaves("t", [10, 1], 110), lambda: octaves([10, 1], 110)),  # 2**133 in float32's c
    "table": (lambda: Table("odd", ODD_TABLE), lambda: table(ODD_TABLE)),
    "large table": (lambda: Table("large", LARGE_TABLE), lambda: table(LARGE_TABLE)),
    "wide table": (lambda: Table("wide", WIDE_TABLE), lambda: table(WIDE_TABLE)),
    "negative": (lambda: Table("negative", [-2, -0.5, 0]), lambda: table([-2, -0.5, 0])),
}


def check(fmt: Format, fast: Fast, x: np.ndarray, scale: int, encode: bool = True) -> None:
    t = torch.from_numpy(x)
    before = bits_of(t).copy()
    for op in OPS:
        assert_same(getattr(fmt, op)(t, scale), getattr(fast, op)(x, scale), x, f"{fmt.name}.{op} at scale {scale}")
    if encode and len(fast.levels) <= 256:
        codes = fmt.encode(t, scale)
        wrong = np.flatnonzero(codes.numpy() != fast.encode(x, scale))
        assert not len(wrong), (fmt.name, scale, x[wrong[:3]], codes[wrong[:3]])
        rounded = fmt.round(t, scale)
        if len(fast.levels) == 256:  # no code is left for nan
            rounded[t.isnan()] = fmt.round(torch.tensor(-math.inf), scale)
        assert_same(fmt.decode(codes, scale), rounded, x, f"{fmt.name}.decode at scale {scale}")
    assert (bits_of(t) == before).all(), f"{fmt.name} modified its input"


@pytest.mark.parametrize("name", BYTE_NAMES)
def test_named_formats_are_exact(name: str) -> None:
    """Every level, every tie, three float32 neighbours on either side of each, and 60,000 random bit patterns."""
    fmt, fast = get(name), Fast(grid_of(name))
    noise = np.concatenate([random_bits(60_000, len(name)), specials()])
    check(fmt, fast, np.concatenate([noise, critical(fast)]), 0)
    for scale in SCALES:
        check(fmt, fast, np.concatenate([noise[-3_000:], critical(fast, scale)]), scale)


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_exact(name: str) -> None:
    make, grid = OTHERS[name]
    fmt, fast = make(), Fast(grid())
    for scale in SCALES:
        few = np.random.default_rng(3).permutation(critical(fast, scale))[:50_000]
        check(fmt, fast, np.concatenate([random_bits(20_000, scale + 200), specials(), few]), scale)


@pytest.mark.parametrize("es", [0, 1, 2])
@pytest.mark.parametrize("bits", range(3, 9))
def test_every_posit_is_exact(bits: int, es: int) -> None:
    """Every pattern of a float32's upper 16 bits, which hold all levels and ties, and the float32s beside each."""
    upper = np.arange(2**16, dtype=np.uint32) << 16
    x = np.concatenate([upper, upper | 1, upper | 0xFFFF]).view(np.float32)
    fmt, fast = Posit(bits, es), Fast(posit(bits, es))
    for scale in (0, -37):
        check(fmt, fast, x, scale)
    up = torch.arange(len(x)) % 3 == 0
    t = torch.from_numpy(x)
    assert_same(fmt.directed(t, up), torch.where(up, fmt.ceil(t), fmt.floor(t)), x, fmt.name)


@pytest.mark.parametrize("name", WIDE)
def test_wide_formats_are_exact(name: str) -> None:
    fmt, fast = get(name), Fast(grid_of(name))
    x = np.concatenate([critical(fast, 0, 2), random_bits(100_000, 7), specials()])
    check(fmt, fast, x, 0)
    for scale in (-9, 30):
        check(fmt, fast, x[::29], scale)


@pytest.mark.parametrize("bits", [8, 7, 6])
def test_the_498_are_exact(bits: int) -> None:
    noise = np.concatenate([random_bits(1_000, bits), specials()])
    for i, fmt in enumerate(family(bits)):
        fast = Fast(octaves(fmt.octaves))
        check(fmt, fast, np.concatenate([noise, critical(fast, 0, 2)]), 0)
        scale = (i * 37) % 271 - 140
        check(fmt, fast, np.concatenate([noise, critical(fast, scale, 1)]), scale)


@pytest.mark.parametrize("name", ["fp134", "fp152", "int8_full", "log4", "posit8_1", "ocp_e4m3", "fp170"])
def test_every_scale_and_tensor_scales_as_int_scales(name: str) -> None:
    """All scales from -140 to 130, as ints against the oracle, and as tensors, per channel and per tensor."""
    fmt, fast = get(name), Fast(grid_of(name))
    rows = range(-140, 131)
    noise = np.concatenate([random_bits(300, 11), specials()])
    near = np.stack([np.random.default_rng(r + 140).choice(critical(fast, r, 1), 300) for r in rows])
    x = np.concatenate([near, np.tile(noise, (len(rows), 1))], axis=1)
    scale = np.arange(-140, 131, dtype=np.int32)[:, None]
    t, s = torch.from_numpy(x), torch.from_numpy(scale)
    codes = fmt.encode(t, s)
    for op in OPS:
        expected = getattr(fast, op)(x, scale)
        for kind in (torch.int32, torch.int64, torch.int16):
            assert_same(getattr(fmt, op)(t, s.to(kind)), expected, x, f"{name}.{op}, channels in rows, {kind}")
        assert_same(getattr(fmt, op)(t.T, s.T), expected.T, x.T, f"{name}.{op}, channels in columns, not contiguous")
    assert (codes.numpy() == fast.encode(x, scale)).all()
    for i, r in enumerate(rows):
        for op in OPS:
            assert_same(getattr(fmt, op)(t[i], r), getattr(fast, op)(x[i], r), x[i], f"{name}.{op} at {r}")
            if r % 10 == 0:
                got = getattr(fmt, op)(t[i], torch.tensor(r, dtype=torch.int32))
                assert_same(got, getattr(fast, op)(x[i], r), x[i], f"{name}.{op} at a 0-dim {r}")
        assert_same(fmt.decode(codes[i], r), fmt.decode(codes, s)[i], x[i], f"{name}.decode at {r}")


def test_results_outside_float32() -> None:
    """A level that float32 does not hold comes out as float32 rounds it: infinite, subnormal or zero."""
    fp134, huge = get("fp134"), torch.tensor([torch.finfo(torch.float32).max, 2.0**127, -math.inf])
    assert fp134.round(huge, 127).tolist() == [1.9375 * 2.0**127, 2.0**127, -1.9375 * 2.0**127]
    assert fp134.round(huge, 128).tolist() == [math.inf, 2.0**127, -math.inf]  # 2**128, the nearest level
    assert fp134.floor(huge, 128).tolist() == [1.9375 * 2.0**127, 2.0**127, -math.inf]
    assert fp134.round(torch.tensor([1.0, -1.0]), -148).tolist() == [2.0**-147, -(2.0**-147)]  # 1.9375 * 2**-148
    for name in ("fp134", "fp170", "int8"):
        for scale in [*range(-126, 127, 7), 127]:  # in between, every result is a level exactly
            x = random_bits(200, scale + 126)
            once = get(name).round(torch.from_numpy(x), scale).double()
            assert_same(once, Fast(grid_of(name)).round(wide(x), scale), x, f"{name} at scale {scale}")


@pytest.mark.parametrize("name", ["fp134", "int8", "log4", "int8_full", "posit8_2", "fp170", "bf16", "fixed8_4"])
@pytest.mark.parametrize("stochastic", [None, torch.tensor(5)])
def test_zero_has_no_sign(name: str, stochastic: Tensor | None) -> None:
    fmt = get(name)
    tiny = torch.tensor([0.0, -0.0, 1e-45, -1e-45, -(2.0**-126), 1e-9, -1e-9])
    for x in (tiny, tiny.double(), tiny.bfloat16(), tiny.half()):
        for scale in (0, 9, 130, torch.tensor(9), torch.tensor(130)):
            for y in (fmt.round(x, scale, stochastic), fmt.floor(x, scale), fmt.ceil(x, scale)):
                assert not y[y == 0].signbit().any(), (name, x.dtype, scale, y)
                assert (y[:2] == 0).all()


def test_below_the_grid() -> None:
    """What scaling makes too small for float32 is still on one side of zero, for floor and ceil."""
    x = torch.tensor([1e-45, -1e-45, 0.0, -0.0])
    for scale in (0, 12, 130, torch.tensor(130)):
        step = 2.0**-10 * 2.0 ** int(scale)
        assert get("fp134").ceil(x, scale).tolist() == [step, 0, 0, 0]
        assert get("fp134").floor(x, scale).tolist() == [0, -step, 0, 0]
        smallest = 2.0 ** (int(scale) - 12)
        assert get("posit8_1").round(x, scale).tolist() == [smallest, -smallest, 0, 0]
        assert get("posit8_1").encode(x, scale).tolist() == [1, 0x81, 0, 0]


@pytest.mark.parametrize("name", ["fp134", "fp152", "int8_full", "log4", "posit8_1", "ocp_e4m3", "bf16", "table"])
def test_float64_is_rounded_once(name: str) -> None:
    """Inputs a float64 ulp beside each tie: by way of float32 they would be ties."""
    fmt = Table("odd", ODD_TABLE) if name == "table" else get(name)
    fast = Fast(table(ODD_TABLE) if name == "table" else grid_of(name))
    rng = np.random.default_rng(1)
    for scale in (0, -140, -3, 77, 130):
        centres = np.ldexp(np.concatenate([fast.ties, fast.levels]), scale)
        centres = rng.permutation(centres)[:20_000]
        x = np.concatenate([centres, np.nextafter(centres, -np.inf), np.nextafter(centres, np.inf)])
        wild = rng.integers(0, 2**64, 5_000, dtype=np.uint64).view(np.float64)
        x = np.concatenate([x, wild, [5e-324, -5e-324, np.inf, -np.inf, np.nan, 0.0, -0.0, 1e308]])
        check(fmt, fast, x, scale, encode=False)
        t = torch.from_numpy(x)
        for op in OPS:
            assert_same(getattr(fmt, op)(t, torch.tensor(scale)), getattr(fmt, op)(t, scale), x, f"{name}.{op}")
        assert (fmt.bits > 8) or (fmt.encode(t, scale).numpy() == fast.encode(x, scale)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["fp134", "int8", "int8_full", "log4", "posit8_1", "ocp_e5m2", "bf16"])
def test_half_precision_in_and_out(name: str, dtype: torch.dtype) -> None:
    """All 65,536 inputs: the result is float32's, rounded to the input's dtype where that holds fewer bits."""
    fmt, fast = get(name), Fast(grid_of(name))
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    for scale in (0, -20, 11, torch.tensor(3)):
        for op in OPS:
            expected = torch.from_numpy(getattr(fast, op)(x.float().numpy(), int(scale))).to(dtype)
            assert_same(getattr(fmt, op)(x, scale), expected, x, f"{name}.{op} of {dtype} at {scale}")


@pytest.mark.parametrize("name", ["fp134", "int8_full", "[5,5,3,2,1]", "posit8_1", "bf16"])
def test_shapes(name: str) -> None:
    fmt = get(name)
    x = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    flat = {op: getattr(fmt, op)(x.flatten(), 2) for op in OPS}
    views = {
        "transposed": lambda t: t.transpose(0, 2),
        "channels last": lambda t: t[None].to(memory_format=torch.channels_last),
        "strided": lambda t: t[::2, 1:, ::3],
        "expanded": lambda t: t[:1].expand(3, 6, 5),
        "0-dim": lambda t: t[1, 2, 3],
        "empty": lambda t: t[:0],
        "empty inside": lambda t: t[:, :, :0],
    }
    for view_name, view in views.items():
        for op in OPS:
            got = getattr(fmt, op)(view(x), 2)
            assert_same(got, view(flat[op].view(x.shape)), view(x), f"{name}.{op}, {view_name}")
        if fmt.bits <= 8:
            assert fmt.decode(fmt.encode(view(x), 2), 2).equal(fmt.round(view(x), 2))
        noisy = fmt.round(view(x), 2, torch.tensor(3))
        assert noisy.shape == view(x).shape and ((noisy - view(x)).abs() <= 0.25).all()


def test_gradients_and_other_dtypes() -> None:
    fmt = get("fp134")
    x = torch.ones(3, requires_grad=True)
    results = fmt.round(x), fmt.floor(x, 1), fmt.ceil(x), fmt.round(x, 0, torch.tensor(1))
    assert not any(y.requires_grad for y in results)
    with pytest.raises(ValueError, match=r"fp134 rounds floating tensors, got torch.int64"):
        fmt.round(torch.ones(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"codes are bytes \(torch.uint8\), got torch.int64"):
        fmt.decode(torch.ones(3, dtype=torch.int64))


def test_fp32_is_the_identity() -> None:
    fmt = get("fp32")
    x = torch.from_numpy(np.concatenate([random_bits(1000, 1), specials()]))
    for scale in (0, 5, torch.tensor(5)):
        for y in (fmt.round(x, scale), fmt.floor(x, scale), fmt.ceil(x, scale), fmt.round(x, scale, torch.tensor(1))):
            assert (y.view(torch.int32) == x.view(torch.int32)).all()
