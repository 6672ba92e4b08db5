"""One byte for each value of a tensor that lies on a grid, and back."""

from __future__ import annotations

import math
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from ..dataflow.passes import rows
from ..formats import Format
from ..formats.base import NAN_CODE
from ..formats.kernels import Library
from ..formats.scaling import times_power_of_two
from .bf16 import fits

PIECE = 1 << 15  # elements; no more, since torch would wake its threads for each piece


class Grid(Protocol):
    """What a tensor's values are known to lie on, and what the code of nan stands for in it."""

    format: Format
    scale: Tensor
    dtype: torch.dtype
    mark: Tensor | None
    kernels: Library | None  # codes are made and read by compiled code


@cache
def fits_a_byte(format: Format) -> bool:
    """Whether a byte holds every value, exact in bfloat16, and has a code to spare."""
    return format.bits <= 8 and fits(format) and len(format.values()) < 256


@cache
def _table(format: Format, device: torch.device) -> Tensor:
    """The code of every bfloat16: a value of at most 8 significant bits is the upper half of its float32."""
    values = (torch.arange(1 << 16, dtype=torch.int32) << 16).view(torch.float32)
    return torch.where(values.isinf(), NAN_CODE, format.encode(values)).to(torch.uint8).to(device)


@cache
def _values(format: Format, device: torch.device) -> Tensor:
    """The value of every code, at scale 0."""
    return format.decode(torch.arange(256, dtype=torch.uint8)).to(device)


def mark_of(least: Tensor, most: Tensor) -> Tensor:
    """From a tensor's extremes: 0 if all is finite, else the infinity that it holds, or nan if it holds anything more.

    0-dim float32; on a CPU there is something to know only whether it is 0.
    """
    infinite = torch.where(least == -math.inf, torch.where(most == math.inf, math.nan, least), most)
    finite = (least > -math.inf) & (most < math.inf)
    return torch.where(finite, 0.0, torch.where(least != least, math.nan, infinite))


def encode(grid: Grid, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `grid.format.encode`, for x [n] whose values are of the grid already; and the extremes of x."""
    table = _table(grid.format, x.device)
    if grid.kernels is not None:
        memory = x if x.device.type == "cpu" else rows(x)
        codes, least, most = grid.kernels.kernel(_codes_and_extremes, fixed=(1,))(memory, table, grid.scale)
        return codes.view(-1), least.amin(), most.amax()
    codes = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    extremes: list[Tensor] = []
    for part, filled in _pieces(x, codes):
        filled.copy_(_to_codes(part, table, grid.scale))
        extremes += torch.aminmax(part) if part.numel() else (part.new_zeros(()),) * 2
    ends = torch.stack(extremes).float()
    return codes, ends.amin(), ends.amax()


def decode(grid: Grid, codes: Tensor) -> Tensor:
    """As `grid.format.decode`, for codes [n]."""
    assert grid.mark is not None
    values = _values(grid.format, codes.device)
    if grid.kernels is not None:
        found: Tensor = grid.kernels.kernel(_to_values, fixed=(1,))(codes, values, grid.scale, grid.mark)
        return found.to(grid.dtype)
    x = torch.empty(codes.shape, dtype=grid.dtype, device=codes.device)
    for part, filled in _pieces(codes, x):
        filled.copy_(_to_values(part, values, grid.scale, grid.mark))
    return x


def _codes_and_extremes(x: Tensor, table: Tensor, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    least, most = (x.amin(1), x.amax(1)) if x.ndim == 2 else (x.amin(), x.amax())
    return _to_codes(x.reshape(-1), table, scale), least.float(), most.float()


def _to_codes(x: Tensor, table: Tensor, scale: Tensor) -> Tensor:
    bits = times_power_of_two(x.float(), -scale).view(torch.int32) >> 16
    return torch.index_select(table, 0, bits & 0xFFFF)


def _to_values(codes: Tensor, values: Tensor, scale: Tensor, mark: Tensor) -> Tensor:
    values = torch.where(values != values, mark, times_power_of_two(values, scale))
    return torch.index_select(values, 0, codes.to(torch.int32))


def _pieces(x: Tensor, out: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pieces of both that stay in a processor's cache."""
    piece = PIECE if x.device.type == "cpu" else max(1, x.numel())
    return list(zip(x.split(piece), out.split(piece), strict=True))
