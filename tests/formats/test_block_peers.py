"""Block rounding, bit for bit, against torchao's and gfloat's, and against the casts of ml_dtypes.

torchao needs finite blocks that end with the dimension. What it computes otherwise is kept out, as docs/formats.md has
it: scale codes 128 and 255, blocks below float32's normal numbers, FP32 factors in another order of operations, and the
last places of a logarithm.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from lpt.formats import get

from .grids import assert_same
from .test_blocks import MX, RULES, block_maxima, element_of


@pytest.fixture(scope="module")
def torchao() -> Iterator[Any]:
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, about torch's newer ways
        try:
            from torchao.prototype.mx_formats import mx_tensor, nvfp4_tensor
        except Exception as reason:  # not installed, or not for this torch
            pytest.skip(f"torchao does not import: {type(reason).__name__}: {str(reason)[:200]}")
        yield {"mx": mx_tensor, "nvfp4": nvfp4_tensor}


THEIRS = {
    "mxfp8_e4m3": torch.float8_e4m3fn, "mxfp8_e5m2": torch.float8_e5m2, "mxfp6_e3m2": "fp6_e3m2",
    "mxfp6_e2m3": "fp6_e2m3", "mxfp4": torch.float4_e2m1fn_x2,
}  # fmt: skip


def blocks_for(name: str, octaves: range = range(-110, 110)) -> Tensor:
    """A block for every maximum on and next to a threshold, filled with halves of steps, and normal numbers."""
    element = element_of(MX[name])
    generator = torch.Generator().manual_seed(0)
    maxima = torch.from_numpy(block_maxima(element, octaves))[:, None]
    scale = torch.exp2(torch.floor(torch.log2(maxima)) - int(np.log2(float(element.high))))
    halves = torch.randint(-64, 65, (len(maxima), 31), generator=generator) * scale * float(element.high) / 256
    halves = torch.where(halves.abs() <= maxima, halves, 0.0)
    return torch.cat([torch.cat([halves, maxima], 1), torch.randn(500, 32, generator=generator)])


def plain(x: Tensor) -> Tensor:
    return x + 0.0  # torchao keeps the sign of zero


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", THEIRS)
def test_mx_is_torchaos(torchao: Any, name: str, rule: str) -> None:
    x = blocks_for(name)
    mode = torchao["mx"].ScaleCalculationMode[rule.upper()]
    fmt = get(name if rule == "floor" else f"{name}_{rule}")
    for dtype in (torch.float32, torch.bfloat16):
        given = x.to(dtype)
        if rule == "rceil":  # on a CPU it takes ceil(log2(amax / max)) in float32, which next to a power of two is it
            given = given[~just_above(given.abs().amax(1), element_of(MX[name]).high)]
        theirs = torchao["mx"].MXTensor.to_mx(given, THEIRS[name], 32, mode)
        exponents = theirs.scale.view(torch.uint8).int() - 127
        assert len(given) > 4000 or name == "mxfp4"
        assert_same(fmt.scales(given), exponents, None, f"scales of {fmt.name}")
        assert_same(fmt.round(given), plain(theirs.dequantize(dtype)), given.float(), fmt.name)


def just_above(amax: Tensor, high: Fraction) -> Tensor:
    """Where amax is the largest level of some scale, but for the last two bits."""
    steps = amax.float().view(torch.int32) - int(torch.tensor(float(high)).view(torch.int32))
    return (steps % 2**23 > 0) & (steps % 2**23 <= 2)


@pytest.mark.parametrize("scaled", [True, False])
def test_nvfp4_is_torchaos(torchao: Any, scaled: bool) -> None:
    """With its smallest scale; of a tensor whose FP32 factor is a power of two, or with none."""
    element = element_of("ocp_e2m1")
    generator = torch.Generator().manual_seed(0)
    maxima = torch.from_numpy(block_maxima(element, range(-12, 11)))[:, None].bfloat16().float()
    maxima = maxima[maxima[:, 0] <= 2688]
    x = torch.cat([torch.rand(len(maxima), 15, generator=generator) * 2 - 1, torch.ones(len(maxima), 1)], 1) * maxima
    x = torch.cat([x, torch.randn(3000, 16, generator=generator), torch.full((1, 16), -2688.0)])
    fmt = get(f"ocp_e2m1/16/e4m3/amax/min_scale=0.015625{'' if scaled else '/tensor_scale=False'}")
    for exponent in (-60, 0, 3) if scaled else (0,):
        given = x * 2.0**exponent
        factor = torchao["nvfp4"].per_tensor_amax_to_scale(given.abs().max()) if scaled else None
        for dtype in (torch.float32, torch.bfloat16):
            theirs = torchao["nvfp4"].NVFP4Tensor.to_nvfp4(given.to(dtype), 16, factor)
            assert_same(fmt.scales(given.to(dtype))[0], theirs.scale.float().view(-1, 1), None, "scales")
            assert_same(fmt.round(given.to(dtype)), plain(theirs.dequantize(dtype)), given, f"{exponent} {dtype}")


@pytest.mark.parametrize("name", MX)
def test_mx_is_gfloats(name: str) -> None:
    """Its scale is told its exponent; elements, their ties and saturation are its own."""
    info = getattr(gfloat.formats, f"format_info_{'mxfp4_e2m1' if name == 'mxfp4' else name}")
    x = blocks_for(name, range(-8, 9))
    fmt = get(name)
    scale = torch.exp2(fmt.scales(x).double())
    inside = x.double() / scale
    theirs = gfloat.round_ndarray(info.etype, inside.numpy(), sat=True) * scale.numpy() + 0.0
    if name == "mxint8":  # its integers go down to -2
        theirs = np.maximum(theirs, -fmt.high * scale.numpy())
    assert_same(fmt.round(x), theirs.astype(np.float32), x, name)
    assert info.k == 32


def test_scale_floats_are_those_of_ml_dtypes() -> None:
    """E8M0's exponents, and E4M3 of positive numbers, on their own."""
    x = torch.exp2(torch.arange(-127, 128).double()).float()
    exponents = get("mxint8").scales(x[:, None]).squeeze(1)
    assert (x.numpy().astype(ml_dtypes.float8_e8m0fnu).view(np.uint8).astype(np.int32) - 127 == exponents.numpy()).all()
    maxima = torch.linspace(0, 2600, 5000).bfloat16().float()[:, None]
    b = get("ocp_e2m1/16/e4m3/amax/tensor_scale=False").scales(maxima)[0]
    wanted = (maxima.numpy() * np.float32(1 / 6)).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert_same(b, wanted, maxima, "E4M3")
