"""One step of one quantized weight: its scale, its next value, its flips."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..formats.fused import fused as compiled
from ..formats.scaling import NO_SCALE
from .rules import Scheme


def step(
    scheme: Scheme, room: int, rule: str, tracked: bool, master: Tensor, quantized: Tensor, scale: Tensor,
    dim: int | None, key: Tensor | None,
) -> Tensor:  # fmt: skip
    """Once over one weight: its scale, its next quantized value (in place), its flips."""
    new_scale = scheme.format.scale_of(master, dim, room, rule)
    if tracked:
        moved = scale + (new_scale - scale).clamp(-1, 1)
        moved = torch.where(scale == NO_SCALE, new_scale, moved)  # it starts with the first nonzero weight
        new_scale = torch.where(new_scale == NO_SCALE, scale, moved)  # and stays while all are zero
    new = scheme(master, quantized, new_scale, key)
    flipped = new != quantized
    regrid = (flipped & (new_scale != scale)).sum()
    flips = torch.stack([flipped.sum() - regrid, regrid])
    quantized.copy_(new)
    scale.copy_(new_scale)
    return flips


@functools.cache
def fused_step(scheme: Scheme, room: int, rule: str, tracked: bool) -> Callable[..., Tensor]:
    """`step`, compiled; a weight of one scale is a row, another is a row a channel."""

    def run(master: Tensor, quantized: Tensor, scale: Tensor, dim: int, key: Tensor | None) -> Tensor:
        return step(scheme, room, rule, tracked, master, quantized, scale, dim, key)

    return compiled(run)
