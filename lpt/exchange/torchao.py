"""`torchao_of`: weights in MX and NVFP4 formats, from a file that `export` wrote, as torchao's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import formats
from ..errors import UserError
from ..formats import Blocks
from .loading import own_of, read, state
from .packed import unpacked

FLOATS = {"ocp_e4m3": torch.float8_e4m3fn, "ocp_e5m2": torch.float8_e5m2}
SIXES = {"ocp_e3m2": "fp6_e3m2", "ocp_e2m3": "fp6_e2m3"}  # torchao's names; a code in a byte
PRODUCT = 2.0**-22  # torchao multiplies by NVFP4's tensor scale, lpt divides by its inverse
SIX_SIGN = 0x20


def torchao_of(file: str | Path) -> dict[str, Any]:
    """{name: the weight as an `MXTensor` or `NVFP4Tensor` of torchao}, which dequantizes to lpt's own values.

    Of NVFP4 the codes and scales are equal, and the values within two units of float32's last place: torchao multiplies
    by the tensor's scale, lpt divides by its inverse.

    Weights that are not quantized are left out.

    Raises:
        UserError: a weight is of another format or layout, or torchao makes other values of it.
        ModuleNotFoundError: torchao is not installed.
    """
    told, tensors = read(file)
    values = state(told, tensors)
    found = {}
    for name, says in told["weights"].items():
        made = _tensor(name, says, own_of(name, tensors))
        back, wanted = made.dequantize(torch.float32), values[name].float()
        if not torch.allclose(back, wanted, rtol=PRODUCT if "nvfp4" in says["format"] else 0, atol=0):
            raise UserError(f"torchao makes other values of {name} than it has; its codes are in {file}")
        found[name] = made
    return found


def _tensor(name: str, says: Mapping[str, Any], own: Mapping[str, Tensor]) -> Any:
    format = formats.get(says["format"])
    four = says["element"] == "ocp_e2m1"
    known = four or says["element"] in FLOATS or says["element"] in SIXES
    shape = says["shape"]
    whole = isinstance(format, Blocks) and len(format.block) == 1 and shape[-1] % format.block[0] == 0
    fits = whole and len(shape) == 2 and shape == says["of"]
    if not known or not fits or not {"scales.e8m0", "scales.block"} & own.keys():
        raise UserError(
            f"{name}, {says['of']} in {says['format']}, is no tensor of torchao: matrices in mxfp8, mxfp6, mxfp4 and "
            "nvfp4 whose rows are whole blocks are; its codes are in the file"
        )
    count = torch.Size(shape).numel()
    codes = unpacked(own["codes"], says["packing"], count).view(shape)
    data = codes[..., 0::2] | codes[..., 1::2] << 4 if four else codes
    if "scales.block" in own:
        return _nvfp4(data.contiguous(), own)
    from torchao.prototype.mx_formats.mx_tensor import MXTensor
    from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

    kind: Any = torch.float4_e2m1fn_x2 if four else FLOATS.get(says["element"]) or SIXES[says["element"]]
    if says["element"] in FLOATS:
        data = data.view(kind)
    elif not four:
        data = (data & 0x7F) | (data >> 7) * SIX_SIGN
    scale = own["scales.e8m0"].view(*shape[:-1], -1).view(torch.float8_e8m0fnu)
    assert isinstance(format, Blocks)
    return MXTensor(
        data.contiguous(), scale, kind, format.block[0], torch.float32, KernelPreference.EMULATED, None, False
    )


def _nvfp4(data: Tensor, own: Mapping[str, Tensor]) -> Any:
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor

    block = own["scales.block"]
    return NVFP4Tensor(data, block.view(len(data), -1), 16, torch.float32, 1 / own["scales.tensor"].reshape(()))
