"""torch.compile(fullgraph=True) gives the same bits as eager, for every operation of one format of each family."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lpt.formats import Format, Table, get

from .grids import ODD_TABLE, random_bits, specials

FORMATS = [
    "fp134", "int8", "[7,6,5,5,4,3,2,1]", "[5,5,3,2,1]", "[4,5,5,2]", "log4", "int8_full", "fixed8_4", "ocp_e4m3",
    "posit8_1", "table", "bf16", "fp169",
]  # fmt: skip

# Inductor inlines whatever is cheap to compute twice, and takes long to write all of it down. This lets it keep
# more intermediate results instead; fp134 is compiled as users compile it.
FASTER = {"realize_opcount_threshold": 10}


def format_of(name: str) -> Format:
    return Table("odd", ODD_TABLE) if name == "table" else get(name)


def operations(fmt: Format) -> dict[str, Callable[..., Tensor]]:
    ops = {
        "round": lambda x, scale, key, codes: fmt.round(x, scale),
        "round at an int": lambda x, scale, key, codes: fmt.round(x, -3),
        "round at 0": lambda x, scale, key, codes: fmt.round(x),
        "floor": lambda x, scale, key, codes: fmt.floor(x, scale),
        "ceil": lambda x, scale, key, codes: fmt.ceil(x, scale),
        "stochastic": lambda x, scale, key, codes: fmt.round(x, scale, key),
    }
    if fmt.name in ("fp134", "ocp_e4m3", "fixed8_4"):  # the three ways from an exponent to a scale
        ops["scale_of"] = lambda x, scale, key, codes: fmt.scale_of(x, 0, 1)
    if fmt.bits <= 8:
        ops["encode"] = lambda x, scale, key, codes: fmt.encode(x, scale)
        ops["decode"] = lambda x, scale, key, codes: fmt.decode(codes, scale)
    return ops


def inputs(fmt: Format) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random bit patterns and special values in rows, one scale a row; ties and levels of each row's scale."""
    scale = torch.arange(-140, 131, 9, dtype=torch.int32)[:, None]
    rows = len(scale)
    generator = torch.Generator().manual_seed(1)
    halves = torch.randint(-(2**9), 2**9, (rows, 200), generator=generator)  # half steps of 8-bit grids
    octave = torch.randint(-12, 3, (rows, 200), generator=generator)
    near = torch.ldexp(halves.double(), scale + octave - 8).float()
    near = torch.cat([near, near.nextafter(torch.tensor(math.inf)), near.nextafter(torch.tensor(-math.inf))], 1)
    wild = torch.from_numpy(np.stack([random_bits(200, i) for i in range(rows)]))
    x = torch.cat([near, wild, torch.from_numpy(specials()).expand(rows, -1)], 1)
    codes = torch.arange(256, dtype=torch.uint8).expand(rows, 256).contiguous()
    return x, scale, torch.tensor(0x123456789ABCDEF), codes


def assert_same_bits(got: Tensor, expected: Tensor, what: str) -> None:
    assert got.dtype == expected.dtype and got.shape == expected.shape, what
    if got.is_floating_point():
        integer = {4: torch.int32, 8: torch.int64, 2: torch.int16}[got.element_size()]
        assert got.isnan().equal(expected.isnan()), what
        got, expected = (torch.where(t.isnan(), 0.0, t).view(integer) for t in (got, expected))
    wrong = (got != expected).nonzero()
    assert not len(wrong), f"{what}: {len(wrong)} differ, first at {wrong[0].tolist()}"


@pytest.mark.parametrize("name", FORMATS)
def test_compiled_is_eager(name: str) -> None:
    fmt = format_of(name)
    ops, data = operations(fmt), inputs(fmt)

    def everything(x: Tensor, scale: Tensor, key: Tensor, codes: Tensor) -> list[Tensor]:
        return [op(x, scale, key, codes) for op in ops.values()]

    torch.compiler.reset()
    compiled = torch.compile(everything, fullgraph=True, options=None if name == "fp134" else FASTER)
    for got, expected, op in zip(compiled(*data), everything(*data), ops, strict=True):
        assert_same_bits(got, expected, f"{name}.{op}")


def test_other_dtypes_and_a_changing_int_scale() -> None:
    fmt = get("fp134")
    torch.compiler.reset()
    compiled = torch.compile(lambda x, scale: fmt.round(x, scale), fullgraph=True)
    x = torch.from_numpy(np.concatenate([random_bits(2_000, 8), specials()]))
    for scale in (0, 1, -3, 100, -140):  # the second makes it a symbol of the graph
        assert_same_bits(compiled(x, scale), fmt.round(x, scale), f"scale {scale}")
    for dtype in (torch.float64, torch.bfloat16):
        assert_same_bits(compiled(x.to(dtype), torch.tensor(2)), fmt.round(x.to(dtype), 2), str(dtype))
