"""A unit at work on real tensors: how far its sums are from the exact ones, and what it switches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import formats
from .figures import energy
from .library import Library
from .netlist import Machine, packed
from .operands import Blocks
from .proof import packed_port
from .streams import KINDS, STREAMS, Stream
from .unit import Unit


def fits(unit: Unit, kind: str) -> bool:
    """Whether this unit does products of a kind: a pair W*A, only those with weights."""
    return unit.a.name == unit.b.name or "W" in kind


def measure(
    unit: Unit, machine: Machine, library: Library, streams: Sequence[Stream]
) -> dict[str, dict[str, float | None]]:
    """By kind of product: `error`, the root of the mean square of sum - exact sum, over that of the exact sum; `energy`
    of a product, see `figures.energy`. Layers count alike. Kinds that the unit does not do are left out."""
    found = {}
    for kind in KINDS:
        own = [stream for stream in streams if stream.kind == kind] if fits(unit, kind) else []
        each = [one for stream in own if (one := _one(unit, machine, library, stream)) is not None]
        if each:
            error = math.sqrt(sum(e**2 for e, _ in each) / len(each))
            spent = [s for _, s in each if s is not None]
            found[kind] = {"error": error, "energy": sum(spent) / len(spent) if spent else None}
    return found


def _one(unit: Unit, machine: Machine, library: Library, stream: Stream) -> tuple[float, float | None] | None:
    codes, steps = coded(unit, stream)
    register = unit.register
    terms = unit.terms(codes).reshape(-1, steps, STREAMS)
    contents, states = np.zeros(STREAMS, register.dtype), []
    for step in range(steps):
        states.append(contents)
        contents = register.code(register.step(contents, terms[:, step]))
    exact = terms.sum((0, 1))
    scale = float(max(abs(exact)))
    if scale == 0:
        return None
    off = ((register.value(contents) - exact) / scale).astype(np.float64)
    error = math.sqrt((off**2).sum() / (((exact / scale).astype(np.float64)) ** 2).sum())
    words = {port: packed_port(unit, port, codes[port]) for port in codes}
    words["clk"] = np.zeros((1, steps * STREAMS // 64), np.uint64)
    state = packed(np.concatenate(states), register.bits)
    spent = energy(machine, library, words, state, STREAMS // 64, (steps - 1) * STREAMS) if steps > 1 else None
    return error, None if spent is None else spent / unit.ways


def coded(unit: Unit, stream: Stream) -> tuple[dict[str, Any], int]:
    """The codes of a stream, as `Unit.terms` takes them, step after step; and how many steps there are."""
    first, _, last = stream.kind.split()
    operands = {first: (stream.x, stream.x_top), last: (stream.y, stream.y_top)}
    order = ("W", last if first == "W" else first) if "W" in operands else (first, last)
    codes: dict[str, Any] = {}
    steps = stream.x.shape[1] // unit.ways
    for port, blocks, role in (("a", unit.a, order[0]), ("b", unit.b, order[1])):
        element, scale = encoded(blocks, *operands[role])
        parts = element.reshape(STREAMS, steps, unit.ways)
        codes[port] = parts.transpose(2, 1, 0).reshape(unit.ways, -1)
        if scale is not None:
            at = np.arange(steps) * unit.ways // blocks.block
            codes[f"scale_{port}"] = scale[:, at].T.reshape(-1)
    return codes, steps


def encoded(blocks: Blocks, x: Tensor, top: float) -> tuple[Any, Any]:
    """Codes of the elements [n, K], and of the blocks' scales [n, K / block] or None.

    A format without blocks takes its scale from the tensor's largest value. E8M0: the block's largest exponent less
    that of the element (OCP's rule); E4M3: the block's largest value over the element's, in units that put the tensor's
    largest at E4M3's largest (NVFP4).
    """
    format = formats.get(blocks.element.name)
    if blocks.scale is None:
        return _ranked(blocks, format, format.encode(x, format.scale_of(torch.tensor([top])))), None
    parts = x.reshape(len(x), -1, blocks.block)
    largest = parts.abs().amax(-1, keepdim=True)
    if blocks.scale.name == "e8m0":
        exponent = _exponents(largest) - format.top_exponent
        exponent = exponent.clamp(-127, 127)
        codes = format.encode(torch.ldexp(parts, -exponent))
        return _ranked(blocks, format, codes.reshape(x.shape)), (exponent[..., 0] + 127).numpy().astype(np.int64)
    scales = formats.get(blocks.scale.name)
    unit = top / (scales.high * format.high) or 1.0
    scale = scales.round(largest / format.high / unit)
    codes = format.encode(torch.where(scale > 0, parts / (scale * unit).clamp(min=torch.finfo(x.dtype).tiny), 0.0))
    return _ranked(blocks, format, codes.reshape(x.shape)), scales.encode(scale)[..., 0].numpy().astype(np.int64)


def _exponents(x: Tensor) -> Tensor:
    """Of powers of two; -127 of zero."""
    return torch.where(x > 0, torch.frexp(x)[1] - 1, -127).to(torch.int32)


def _ranked(blocks: Blocks, format: Any, codes: Tensor) -> Any:
    """From the codes of `Format.encode` to those of the operand, which may be in two's complement."""
    low = len([v for v in format.values().tolist() if v < 0])
    ranks = [code if code < 128 else -(code - 128) for code in range(256)]
    ranks[128] = -128 if low == 128 else 0
    table = np.array([blocks.element.code(rank) if -low <= rank else 0 for rank in ranks], np.int64)
    return table[codes.numpy()]
