"""Blocks rounded in compiled passes: the bits of eager, whatever the shape."""

import math

import pytest
import torch
from torch import Tensor

from lpt.formats import Blocks, get
from lpt.formats.block_passes import round_once

from .grids import assert_same
from .test_blocks import patterns
from .test_compiled import FASTER

SHAPES = {"mxfp8_e4m3_rceil": ((64, 6), 0), "nvfp4": ((40, 50), -1), "fp125/4x6": ((48, 8), 0)}


def inputs(shape: tuple[int, ...]) -> Tensor:
    x = patterns(shape, 1)
    x.view(-1)[: x.numel() // 2] = torch.randn(x.numel() // 2, generator=torch.Generator().manual_seed(0))
    return x


@pytest.mark.parametrize("name", SHAPES)
def test_rounded_in_one_pass(name: str) -> None:
    fmt = get(name)
    assert isinstance(fmt, Blocks)
    shape, dim = SHAPES[name]
    x = inputs(shape)
    if name == "fp125/4x6":
        x = inputs(shape[::-1]).t()  # a view
    wanted = fmt.round(x, dim)
    assert_same(round_once(fmt, x, dim), wanted, x, f"{name} {shape} {dim}")
    out = torch.full_like(x, math.nan)
    assert round_once(fmt, x, dim, out=out) is out
    assert_same(out, wanted, x, f"{name} {shape} {dim}, given")


def test_stochastic_and_bf16() -> None:
    fmt, key = get("mxfp4"), torch.tensor(5)
    assert isinstance(fmt, Blocks)
    x = inputs((6, 96)).bfloat16()
    assert_same(round_once(fmt, x, -1, key), fmt.round(x, -1, key), x, "bf16, stochastic")
    first, second = (torch.Generator().manual_seed(2) for _ in range(2))
    assert_same(round_once(fmt, x, -1, first), fmt.round(x, -1, second), x, "by a generator")


def test_within_other_compiled_code() -> None:
    fmt = get("nvfp4")
    assert isinstance(fmt, Blocks)

    def everything(x: Tensor, up: Tensor) -> list[Tensor]:
        codes, scales = fmt.encode(x)
        return [
            fmt.round(x),
            fmt.directed(x, up),
            codes,
            scales,
            fmt.decode(codes, scales),
            fmt.moved(scales, scales, x),
        ]

    x = inputs((4, 70))
    torch.compiler.reset()
    compiled = torch.compile(everything, fullgraph=True, options=FASTER)
    for got, wanted in zip(compiled(x, x > 0.1), everything(x, x > 0.1), strict=True):
        assert_same(got, wanted, None, "nvfp4")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
@pytest.mark.parametrize("name", ["mxfp8_e4m3_rceil", "nvfp4", "ocp_e4m3/8/fp32", "fp125/4x6"])
def test_a_gpu_gives_the_bits_of_a_cpu(name: str) -> None:
    """Eager and compiled."""
    fmt, x = get(name), inputs((40, 96))
    assert isinstance(fmt, Blocks)
    assert_same(fmt.round(x.cuda()).cpu(), fmt.round(x), x, name)
    assert_same(round_once(fmt, x.cuda()).cpu(), fmt.round(x), x, name)
