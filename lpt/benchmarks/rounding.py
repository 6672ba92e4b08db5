"""Each rounding beside a copy of the same tensor, and other libraries at the same work."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..formats import Blocks, Format, Table, get
from ..formats.block_passes import round_once
from ..formats.fused import fused
from ..weights import hysteresis
from .measuring import Work

# Of the 498 formats two of those whose spacing changes most often from octave to octave, which is what costs.
MOST_RUNS = ("7,5,4x4,3x3,2,1", "7,6,5,3x3,2,1")
BLOCKS = {"mxfp8_e4m3_rceil": 2.0, "mxfp4": 2.0, "nvfp4": 3.0}  # and the ratios that they may cost


def rounding(elements: int, device: str) -> dict[str, Work]:
    """Each rounding into a given output, compiled to one pass; FP134 into a new tensor and eager as well."""
    x = _numbers(elements, device)
    out, fp134 = torch.empty_like(x), get("fp134")
    scale = fp134.scale_of(x)
    works = {"copy": Work(lambda: out.copy_(x))}
    for fmt, target in _formats():
        works[fmt.name] = Work(_into(out, partial(_round, fmt), x, scale), target=target, bound=1)
    found = _into(out, lambda x: fp134.round(x, fp134.scale_of(x)), x)
    works["fp134, scale found and applied"] = Work(found, target=2.2, bound=1.5)
    key = torch.tensor(1, device=device)
    stochastic = _into(out, lambda x, scale, key: fp134.round(x, scale, key), x, scale, key)
    works["fp134, stochastic"] = Work(stochastic, target=4, bound=1)
    side = int(elements**0.5)
    master = x[: side * side].view(side, side)
    for name in ("log4", "int4", "int8"):
        fmt = get(name)
        rows = fmt.scale_of(master, 0)
        quantized = fmt.round(master, rows)
        update = _into(quantized, lambda m, q, s, fmt=fmt: hysteresis(m, q, fmt, s), master * 1.01, quantized, rows)
        works[f"hysteresis, {name} weights"] = Work(update, target=2.5, bound=1.5)
    for name, run in _blocks(x).items():
        works[f"{name}, scales found and applied"] = Work(run, target=BLOCKS[name], bound=1.5 if name == "nvfp4" else 1)
    new = fused(lambda x, scale: fp134.round(x, scale))
    works["fp134 into a new tensor"] = Work(lambda: new(x, scale), bound=1)
    works["fp134 eager"] = Work(lambda: fp134.round(x, scale))
    if device == "cuda":  # 80 % of the copy's bandwidth
        for work in works.values():
            work.target = work.bound / 0.8 if work.bound else None
    return works


def peers(elements: int, device: str) -> dict[str, Work]:
    """The same work by other libraries, those that are installed, and by lpt: their nearest format to each of these."""
    x = _numbers(elements, "cpu")
    out = torch.empty_like(x)
    scale, fp134 = torch.tensor(3, dtype=torch.int32), get("fp134")
    works = {"copy": Work(lambda: out.copy_(x))}
    for name in ("fp134", "int8", "ocp_e4m3", "posit8_1"):
        works[f"lpt {name}"] = Work(_into(out, partial(_round, get(name)), x, scale))
    stochastic = _into(out, lambda x, s, key: fp134.round(x, s, key), x, scale, torch.tensor(1))
    works["lpt fp134, stochastic"] = Work(stochastic)
    works |= {f"lpt {name}": Work(run) for name, run in _blocks(x).items()}
    for build in (
        _torch,
        _torchao,
        _torchao_blocks,
        _microxcaling_style,
        _qtorch,
        _qtorch_plus,
        _ml_dtypes,
        _gfloat,
        _pychop,
    ):
        try:
            works |= {name: Work(run) for name, run in build(x, out).items()}
        except Exception as error:  # not installed, or its extension does not build here
            print(f"left out, {build.__name__[1:]}: {str(error).splitlines()[0]}", file=sys.stderr)
    return works


# -- the works of the other libraries --------------------------------------------------------------------------------


def _torch(x: Tensor, out: Tensor) -> dict[str, Callable[[], object]]:
    cast = fused(lambda out, x: out.copy_(x.to(torch.float8_e4m3fn)))
    return {
        "torch fake_quantize, int8": lambda: torch.fake_quantize_per_tensor_affine(x, 2.0**-4, 0, -127, 127),
        "torch float8_e4m3fn and back": lambda: out.copy_(x.to(torch.float8_e4m3fn)),
        "torch float8_e4m3fn and back, compiled": lambda: cast(out, x),
    }


def _torchao(x: Tensor, out: Tensor) -> dict[str, Callable[[], object]]:
    from torchao.prototype.custom_fp_utils import _f32_to_floatx_unpacked, _floatx_unpacked_to_f32

    there = fused(lambda out, x: out.copy_(_floatx_unpacked_to_f32(_f32_to_floatx_unpacked(x, 3, 4), 3, 4)))
    return {f"torchao {_version('torchao')} floatx e3m4, compiled": lambda: there(out, x)}


def _torchao_blocks(x: Tensor, out: Tensor) -> dict[str, Callable[[], object]]:
    """Quantized and back, as its tensors do it; the elements' codes are not packed away."""
    from torchao.prototype.mx_formats.mx_tensor import MXTensor, ScaleCalculationMode
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    rows, mode = x[: x.numel() // 32 * 32].view(-1, 32), ScaleCalculationMode.RCEIL
    return {
        f"torchao {_version('torchao')} MXFP8 E4M3, RCEIL": lambda: MXTensor.to_mx(
            rows, torch.float8_e4m3fn, 32, mode
        ).dequantize(torch.float32),
        "torchao MXFP4, floor": lambda: MXTensor.to_mx(rows, torch.float4_e2m1fn_x2, 32).dequantize(torch.float32),
        "torchao NVFP4": lambda: NVFP4Tensor.to_nvfp4(rows, 16, per_tensor_amax_to_scale(rows.abs().max())).dequantize(
            torch.float32
        ),
    }


def _microxcaling_style(x: Tensor, out: Tensor) -> dict[str, Callable[[], object]]:
    """MXFP4 by eager operations in microxcaling's manner (it is not on the index): logarithms, ties away from zero."""

    def mxfp4(x: Tensor) -> Tensor:
        amax = x.abs().amax(-1, keepdim=True)
        shared = torch.floor(torch.log2(amax + 2.0**-126 * (amax == 0))) - 2
        scaled = x / 2**shared
        private = torch.floor(torch.log2(scaled.abs() + (scaled == 0))).clamp(min=0)
        steps = scaled / 2**private * 2
        steps = torch.sign(steps) * torch.floor(steps.abs() + 0.5)
        return (steps / 2 * 2**private).clamp(-6, 6) * 2**shared

    rows = x[: x.numel() // 32 * 32].view(-1, 32)
    return {"MXFP4 in microxcaling's manner": lambda: mxfp4(rows)}


def _qtorch(x: Tensor, out: Tensor) -> dict[str, Callable[[], object]]:
    from qtorch.quant import float_quantize

    name = f"qtorch {_version('qtorch')} e3m4"
    return {
        name: lambda: float_quantize(x, 3, 4, "nearest"),
        f"{name}, stochastic": lambda: float_quantize(x, 3, 4, "stochastic"),
    }


def _qtorch_plus(x: Tensor, out: Tensor) -> dict[str, Callable[[], object]]:
    from qtorch_plus.quant import posit_quantize

    return {f"qtorch-plus {_version('qtorch-plus')} posit(8, 1)": lambda: posit_quantize(x, nsize=8, es=1)}


def _ml_dtypes(x: Tensor, out: Tensor) -> dict[str, Callable[[], object]]:
    import ml_dtypes
    import numpy as np

    values, there = x.numpy(), ml_dtypes.float8_e3m4
    return {f"ml_dtypes {_version('ml_dtypes')} e3m4": lambda: values.astype(there).astype(np.float32)}


def _gfloat(x: Tensor, out: Tensor) -> dict[str, Callable[[], object]]:
    from gfloat import RoundMode, round_ndarray
    from gfloat.formats import format_info_ocp_e4m3

    values, mode = x.numpy(), RoundMode.TiesToEven
    name = f"gfloat {_version('gfloat')} e4m3, numpy"
    return {name: lambda: round_ndarray(format_info_ocp_e4m3, values, mode, sat=True)}


def _pychop(x: Tensor, out: Tensor) -> dict[str, Callable[[], object]]:
    from pychop import Chop

    chop = Chop(exp_bits=3, sig_bits=4)
    return {f"pychop {_version('pychop')} e3m4": lambda: chop(x)}


def _version(package: str) -> str:
    return importlib.metadata.version(package)


# -- inside ----------------------------------------------------------------------------------------------------------


def _formats() -> list[tuple[Format, float]]:
    """Formats of every kind, and the ratios that they may cost."""
    floats = [get(name) for name in ("fp134", "fp143", "fp152", "int8", "int4")]
    of_the_498 = [get(name) for name in ("log4", *MOST_RUNS)]
    others = [get(name) for name in ("ocp_e4m3", "ieee_e3m4", "posit8_0", "posit8_1", "posit8_2")]
    tables = [_table(16), _table(255)]
    goals = ((1.3, floats), (2.0, of_the_498), (4.0, others), (3.0, tables))
    return [(one, goal) for goal, alike in goals for one in alike]


def _numbers(elements: int, device: str) -> Tensor:
    return torch.randn(elements, device=device, generator=torch.Generator(device).manual_seed(0))


def _into(out: Tensor, work: Callable[..., Tensor], *given: Any) -> Callable[[], object]:
    run = fused(lambda out, *given: out.copy_(work(*given)))
    return lambda: run(out, *given)


def _blocks(x: Tensor) -> dict[str, Callable[[], object]]:
    rows = x[: x.numel() // 32 * 32].view(-1, 32)
    out = torch.empty_like(rows)
    formats = {name: get(name) for name in BLOCKS}
    return {n: partial(round_once, f, rows, -1, None, out) for n, f in formats.items() if isinstance(f, Blocks)}


def _round(fmt: Format, x: Tensor, scale: Tensor) -> Tensor:
    return fmt.round(x, scale)


def _table(size: int) -> Table:
    """Cubes: nothing but a table will do for them."""
    low = -(size // 2)
    return Table(f"table of {size} values", [-((i / low) ** 3) for i in range(low, low + size)])
