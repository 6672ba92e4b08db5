"""A quantized weight as bytes, and back: codes by the format's table of values, two a byte where they have four bits.

A code is the sign, then the rank of the magnitude from 0 upward. Of a format of at most 16 values the sign is bit 3 of
a nibble, the first element in the lower one, otherwise bit 7 of a byte; so E2M1, E4M3 and E5M2 have the codes that OCP
gives them. The file holds the table, so that value = table[code] * scale needs no knowledge of the format.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import formats
from ..formats import Blocks, Format
from ..formats.block_codes import apart, nibbles, paired
from ..formats.scaling import from_scale_0

BIAS = 127  # of an E8M0 exponent, as OCP has it
NIBBLE, BYTE = "nibbles", "bytes"


class Unpackable(ValueError):
    """The weight does not lie on its grid, or its format has no codes: it is stored as it is."""


@dataclass(frozen=True)
class Packed:
    """Codes, scales, and what says how to read them; tensors by the ending of their name, `codes` and `scales...`."""

    tensors: dict[str, Tensor]
    says: dict[str, Any]


def pack(values: Tensor, format: Format, scale: Tensor) -> Packed:
    """`values`, which lie on the grid of `format` at `scale`, as codes.

    Args:
        values: as their scale broadcasts against them; of a block format, blocks along the last dimension.
        scale: int32 exponents; of a block format what its `scales` gives.

    Raises:
        Unpackable: they do not lie on it, or the format has more than 256 values.
    """
    element = format.element if isinstance(format, Blocks) else format
    try:
        if isinstance(format, Blocks):
            codes = format.encode(values, scale=scale)[0]
            back = format.decode(codes, scale)
        else:
            codes = format.encode(values, scale)
            back = format.decode(codes, scale)
    except ValueError as error:
        raise Unpackable(str(error)) from error
    if not torch.equal(back, values.float()):
        raise Unpackable(f"it does not lie on the grid of {format.name}")
    small = len(element.values()) <= 16
    flat = codes.flatten()
    if small:
        flat = paired(nibbles(flat))
    tensors = {"codes": flat.contiguous(), **_stored(scale, format)}
    says = {
        "format": format.name, "element": element.name, "bits": format.bits, "packing": NIBBLE if small else BYTE,
        "shape": list(values.shape), "blocks": isinstance(format, Blocks), "table": table(element, small),
    }  # fmt: skip
    return Packed(tensors, says)


def unpack(tensors: Mapping[str, Tensor], says: Mapping[str, Any]) -> Tensor:
    """The float32 values of what `pack` gave, in its shape.

    Raises:
        ValueError: the tensors do not fit what is said of them, or the block format is unknown here.
    """
    codes = unpacked(tensors["codes"], says["packing"], torch.Size(says["shape"]).numel())
    if torch.tensor(says["table"], dtype=torch.float32)[codes.long()].isnan().any():
        raise ValueError("a code that its table does not have")
    if says["blocks"]:
        _blocks(says)
    return decoded(tensors, says)


def decoded(tensors: Mapping[str, Tensor], says: Mapping[str, Any]) -> Tensor:
    """As `unpack`, of what that has taken before: no branch of it depends on a value, so that it can be traced."""
    shape = torch.Size(says["shape"])
    codes = unpacked(tensors["codes"], says["packing"], shape.numel())
    table = torch.tensor(says["table"], dtype=torch.float32, device=codes.device)
    values = table[codes.long()].view(shape)
    scale = _restored(tensors)
    return _blocks(says).at_scales(values, scale) if says["blocks"] else from_scale_0(values, scale)


def _blocks(says: Mapping[str, Any]) -> Blocks:
    blocks = formats.get(says["format"])
    if not isinstance(blocks, Blocks) or blocks.element.name != says["element"]:
        raise ValueError(f"{says['format']!r} is no block format of {says['element']!r} here")
    return blocks


def exponents(tensors: Mapping[str, Tensor], says: Mapping[str, Any]) -> Tensor:
    """Of a format with power-of-two scales that is no block format: each value's exponent, int32, in the values' shape.

    Raises:
        ValueError: its scales are of another kind.
    """
    if "scales.exponent" not in tensors:
        raise ValueError(f"{says['format']} does not have a power of two for a scale")
    return _restored(tensors).expand(says["shape"])


def unpacked(stored: Tensor, packing: str, count: int) -> Tensor:
    """uint8 codes, one an element.

    Raises:
        ValueError: not as many as `count`, or an unknown packing.
    """
    if packing not in (NIBBLE, BYTE) or stored.dtype != torch.uint8:
        raise ValueError(f"codes are {NIBBLE} or {BYTE} in uint8, not {packing!r} in {stored.dtype}")
    if len(stored) != (-(-count // 2) if packing == NIBBLE else count):
        raise ValueError(f"{len(stored)} bytes of codes are not {count} {packing}")
    if packing == BYTE:
        return stored
    return apart(stored, count)


def table(element: Format, small: bool) -> list[float]:
    """The value of each code at scale 0, nan where a code is not used."""
    codes = torch.arange(256, dtype=torch.uint8)
    values = element.decode(codes)
    if not small:
        return [float(value) for value in values]
    used = ~values.isnan()
    found = torch.full((16,), math.nan)
    found[nibbles(codes[used]).long()] = values[used]
    found[8] = -0.0 if found[8].isnan() else found[8]  # as OCP's E2M1 has it; -8 of int4_full else
    return [float(value) for value in found]


def _stored(scale: Tensor, format: Format) -> dict[str, Tensor]:
    """A scale as few bytes: exponents in 8 bits, E8M0's with OCP's bias; E4M3's as such, beside the tensor's factor."""
    if not scale.is_floating_point():
        if isinstance(format, Blocks):
            return {"scales.e8m0": (scale + BIAS).to(torch.uint8).contiguous()}
        low, high = (int(scale.min()), int(scale.max())) if scale.numel() else (0, 0)
        return {"scales.exponent": scale.to(torch.int8 if low >= -128 and high <= 127 else torch.int32).contiguous()}
    if not isinstance(format, Blocks) or format.scale not in ("e4m3", "ue5m3"):
        return {"scales.factor": scale.contiguous()}
    block, tensor = scale[0], scale[1]
    one = tensor.flatten()[:1] if tensor.numel() and bool((tensor == tensor.flatten()[0]).all()) else tensor
    small = block.to(torch.float8_e4m3fn) if format.scale == "e4m3" else block
    if not torch.equal(small.float(), block):
        small = block
    return {"scales.block": small.contiguous(), "scales.tensor": one.contiguous()}


def _restored(tensors: Mapping[str, Tensor]) -> Tensor:
    if (biased := tensors.get("scales.e8m0")) is not None:
        return biased.to(torch.int32) - BIAS
    if (exponent := tensors.get("scales.exponent")) is not None:
        return exponent.to(torch.int32)
    if (factor := tensors.get("scales.factor")) is not None:
        return factor
    block = tensors["scales.block"].float()
    return torch.stack([block, tensors["scales.tensor"].expand_as(block)])
