"""torch.compile(fullgraph=True) gives the same bits as eager, for one format of each family."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lpt.formats import Format, Table, get

from .grids import LARGE_TABLE, ODD_TABLE, assert_same, random_bits, specials

ROUNDING = ["round", "round at an int", "round at 0", "floor", "ceil"]
CODES = ["encode", "decode"]
NOISE = ["stochastic"]

# Rounding is compiled for every family; what its families share, for those that differ in it: stochastic rounding
# of octaves in float32 and in double and of tables, codes with and without a sign's symmetry, and the three ways
# from an exponent to a scale. A table of few values is compared with each of them, a large one looked up.
FORMATS = {
    "fp134": [*ROUNDING, *CODES, *NOISE, "scale_of"],
    "int8": ROUNDING,
    "[7,6,5,5,4,3,2,1]": ROUNDING,
    "[5,5,3,2,1]": [*ROUNDING, *CODES, *NOISE],
    "[4,5,5,2]": [*ROUNDING, *NOISE],
    "log4": [*ROUNDING, *NOISE],
    "int8_full": [*ROUNDING, *CODES, *NOISE],
    "fixed8_4": [*ROUNDING, "scale_of"],
    "ocp_e4m3": [*ROUNDING, *CODES, "scale_of"],
    "posit8_1": [*ROUNDING, *CODES, *NOISE],
    "table": [*ROUNDING, *CODES],
    "large table": ["round", "round at 0"],
    "bf16": [*ROUNDING, *NOISE],
    "fp169": ROUNDING,
}

# Inductor inlines whatever is cheap to compute twice, and takes long to write all of it down. This lets it keep
# more intermediate results instead; the last test compiles as users do.
FASTER = {"realize_opcount_threshold": 10}


def format_of(name: str) -> Format:
    tables = {"table": ODD_TABLE, "large table": LARGE_TABLE}
    return Table(name, tables[name]) if name in tables else get(name)


def operations(fmt: Format) -> dict[str, Callable[..., Tensor]]:
    return {
        "round": lambda x, scale, key, codes: fmt.round(x, scale),
        "round at an int": lambda x, scale, key, codes: fmt.round(x, -3),
        "round at 0": lambda x, scale, key, codes: fmt.round(x),
        "floor": lambda x, scale, key, codes: fmt.floor(x, scale),
        "ceil": lambda x, scale, key, codes: fmt.ceil(x, scale),
        "stochastic": lambda x, scale, key, codes: fmt.round(x, scale, key),
        "encode": lambda x, scale, key, codes: fmt.encode(x, scale),
        "decode": lambda x, scale, key, codes: fmt.decode(codes, scale),
        "scale_of": lambda x, scale, key, codes: fmt.scale_of(x, 0, 1),
    }


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
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


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("name", FORMATS)
def test_a_gpu_gives_the_bits_of_a_cpu(name: str) -> None:
    """Eager and compiled."""
    fmt = format_of(name)
    every, data = operations(fmt), inputs()
    there = [part.cuda() for part in data]
    for op in FORMATS[name]:
        expected = every[op](*data)
        assert_same(every[op](*there).cpu(), expected, None, f"{name}.{op} on a GPU")
        torch.compiler.reset()
        compiled = torch.compile(every[op], fullgraph=True)
        assert_same(compiled(*there).cpu(), expected, None, f"{name}.{op} compiled for a GPU")


@pytest.mark.parametrize("name", FORMATS)
def test_compiled_is_eager(name: str) -> None:
    fmt = format_of(name)
    every, data = operations(fmt), inputs()
    ops = {op: every[op] for op in FORMATS[name]}

    def everything(x: Tensor, scale: Tensor, key: Tensor, codes: Tensor) -> list[Tensor]:
        return [op(x, scale, key, codes) for op in ops.values()]

    torch.compiler.reset()
    compiled = torch.compile(everything, fullgraph=True, options=FASTER)
    for got, expected, op in zip(compiled(*data), everything(*data), ops, strict=True):
        assert_same(got, expected, None, f"{name}.{op}")


def test_other_dtypes_and_a_changing_int_scale() -> None:
    fmt = get("fp134")
    torch.compiler.reset()
    compiled = torch.compile(lambda x, scale: fmt.round(x, scale), fullgraph=True)
    x = torch.from_numpy(np.concatenate([random_bits(2_000, 8), specials()]))
    for scale in (0, 1, -3, 100, -140):  # the second makes it a symbol of the graph
        assert_same(compiled(x, scale), fmt.round(x, scale), x, f"scale {scale}")
    for dtype in (torch.float64, torch.bfloat16):
        assert_same(compiled(x.to(dtype), torch.tensor(2)), fmt.round(x.to(dtype), 2), x, str(dtype))
