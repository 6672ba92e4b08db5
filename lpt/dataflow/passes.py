"""What is done to a tensor where it is rounded: each of these is one pass over memory once it is compiled."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..formats import Format
from ..formats.kernels import ROW
from ..formats.scaling import amax_of


def at_scale(format: Format, x: Tensor, key: Tensor | None, scale: Tensor) -> Tensor:
    return round_to(format, x, format.scale_for(scale), key)


def seen_and_rounded(format: Format, x: Tensor, key: Tensor | None, scale: Tensor, seen: Tensor) -> Tensor:
    q = round_to(format, x, format.scale_for(scale), key)
    see(x, seen)
    return q


def seen_and_written(format: Format, x: Tensor, key: Tensor | None, scale: Tensor, seen: Tensor) -> None:
    x.copy_(seen_and_rounded(format, x, key, scale, seen))


def sum_of(q: Tensor, rest: Tensor) -> Tensor:
    """Of a dual value; there is no rest of an infinity, and none that would make one."""
    both = q + rest
    return torch.where(both.abs() < math.inf, both, q)


def at_own_scale(format: Format, room: int, rule: str, x: Tensor, key: Tensor | None) -> Tensor:
    return round_to(format, x, format.scale_of(x, room=room, rule=rule) if format.scaled else 0, key)


def round_to(format: Format, x: Tensor, scale: Tensor | int, key: Tensor | None) -> Tensor:
    """As `format.round`, but infinities stay, and what is finite in float16 does not become infinite there."""
    if key is not None:  # random bits go by an element's index, not by its place in memory; eager as compiled
        x = x.contiguous()
    q = format.round(x, scale, key)
    if x.dtype == torch.float16:
        most = torch.full((), torch.finfo(x.dtype).max, device=x.device)
        scale = scale.reshape(()) if isinstance(scale, Tensor) else scale
        q = q.clamp(format.ceil(-most, scale).to(x.dtype), format.floor(most, scale).to(x.dtype))
    return torch.where(x.abs() == math.inf, x, q)


def see(x: Tensor, seen: Tensor) -> None:
    amax = amax_of(x, 0).amax() if x.ndim == 2 and len(x) else amax_of(x)
    seen.copy_(torch.maximum(seen, amax.to(seen.dtype).reshape(())))


def rows(x: Tensor) -> Tensor:
    """Memory in rows, where it fits: Triton then rounds and finds the rows' maxima in one pass."""
    return x if x.numel() % ROW or x.numel() == ROW else x.view(-1, ROW)
