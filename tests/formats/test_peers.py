"""Rounding, bit for bit, against other people's libraries, wherever they define the same values."""

import gfloat
import gfloat.formats
import ml_dtypes
import numpy as np
import pytest
import torch

from lpt.formats import get

from .grids import FIXED, INTS, POSITS, WIDE, Fast, assert_same, critical, grid_of, random_bits, specials, wide
from .test_values import finite_float


def inputs_for(name: str) -> np.ndarray:
    return np.concatenate([critical(Fast(grid_of(name))), random_bits(20_000, 5), specials()])


@pytest.mark.parametrize("name", ["fp134", "fp143", "fp152", "fp124", "fp133", "fp142", "fp123", "fp132"])
def test_same_as_gfloat(name: str) -> None:
    """All modes. gfloat keeps the sign of zero, and saturates where it is told to."""
    x, info, modes = inputs_for(name), finite_float(name), gfloat.RoundMode
    modes = {"round": modes.TiesToEven, "floor": modes.TowardNegative, "ceil": modes.TowardPositive}
    for op, mode in modes.items():
        theirs = gfloat.round_ndarray(info, wide(x), mode, sat=True) + 0.0
        assert_same(getattr(get(name), op)(torch.from_numpy(x)), theirs.astype(np.float32), x, f"{name}.{op}")


GFLOAT = ["ocp_e4m3", "ocp_e5m2", "ocp_e3m2", "ocp_e2m3", "ocp_e2m1"]


@pytest.mark.parametrize("name", GFLOAT)
def test_same_as_gfloat_on_ocp_formats(name: str) -> None:
    """gfloat keeps infinities where the format has them; here they saturate like everything else."""
    x, info = inputs_for(name), getattr(gfloat.formats, f"format_info_{name}")
    x = x[np.isfinite(x)]
    theirs = gfloat.round_ndarray(info, wide(x), sat=True) + 0.0
    assert_same(get(name).round(torch.from_numpy(x)), theirs.astype(np.float32), x, name)


ML_DTYPES = {
    "ocp_e4m3": "float8_e4m3fn", "ocp_e5m2": "float8_e5m2", "ocp_e3m2": "float6_e3m2fn", "ocp_e2m3": "float6_e2m3fn",
    "ocp_e2m1": "float4_e2m1fn", "ieee_e5m2": "float8_e5m2", "ieee_e4m3": "float8_e4m3", "ieee_e3m4": "float8_e3m4",
    "bf16": "bfloat16", "fp16": "float16",
}  # fmt: skip


@pytest.mark.parametrize("name", ML_DTYPES)
def test_same_as_ml_dtypes(name: str) -> None:
    """Within range. Beyond the largest value most of its types give infinity or nan: here it is the largest value."""
    x, fmt = inputs_for(name) if name not in WIDE else random_bits(300_000, 3), get(name)
    dtype = np.float16 if name == "fp16" else getattr(ml_dtypes, ML_DTYPES[name])
    inside = np.abs(x) <= fmt.high
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = x[inside].astype(dtype).astype(np.float32) + np.float32(0)
    assert_same(fmt.round(torch.from_numpy(x[inside])), theirs, x[inside], name)
    beyond = torch.from_numpy(x[(np.abs(x) > fmt.high)])
    assert len(beyond) > 2 and (fmt.round(beyond) == beyond.sign() * fmt.high).all()


@pytest.mark.parametrize("name", [*INTS, "int4_full", *FIXED])
def test_ints_are_numpys_rint(name: str) -> None:
    fmt, x = get(name), inputs_for(name)
    step = 2.0 ** -int(name[-1]) if name in FIXED else 2.0 ** (2 - fmt.bits)
    theirs = np.rint(np.clip(wide(x), fmt.low, fmt.high) / step) * step + 0.0
    assert_same(fmt.round(torch.from_numpy(x)), theirs.astype(np.float32), x, name)


@pytest.mark.parametrize("name", ["fp16", "bf16", "ocp_e4m3", "ocp_e5m2"])
def test_same_as_torchs_own_casts(name: str) -> None:
    casts = {"fp16": "float16", "bf16": "bfloat16", "ocp_e4m3": "float8_e4m3fn", "ocp_e5m2": "float8_e5m2"}
    dtype = getattr(torch, casts[name])
    x = torch.from_numpy(random_bits(300_000, 9))
    x = x[x.abs() <= get(name).high]
    assert_same(get(name).round(x), x.to(dtype).float() + 0.0, x, name)


def test_posits_are_those_of_qtorch_plus() -> None:
    """It compiles an extension on import; where it cannot, the oracle alone vouches for posits."""
    try:
        from qtorch_plus.quant import posit_quantize
    except Exception as reason:  # a compiler is missing, or the extension does not build against this torch
        pytest.skip(f"qtorch-plus does not import: {type(reason).__name__}: {str(reason)[:200]}")
    for name in POSITS:
        x = inputs_for(name)
        x = x[np.isfinite(x)]
        theirs = posit_quantize(torch.from_numpy(x), nsize=8, es=int(name[-1])) + 0.0
        assert_same(get(name).round(torch.from_numpy(x)), theirs, x, name)
