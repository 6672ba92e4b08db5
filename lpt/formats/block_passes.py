"""Rounding by blocks, compiled: the bits of `Blocks.round`, MX in one pass over memory, two-level scales in two."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from .base import Stochastic
from .blocks import Blocks
from .fused import fused
from .noise import fresh_key
from .tiles import Tiles


def round_once(
    blocks: Blocks, x: Tensor, dim: int = -1, stochastic: Stochastic = None, out: Tensor | None = None
) -> Tensor:
    """`blocks.round(x, dim, stochastic)`, compiled at the first call, into `out` if given.

    Args:
        blocks, x, dim, stochastic: as for `Blocks.round`.
        out: of x's shape and dtype, in other memory.

    Fast where all blocks are whole: a shorter one at the end makes every element look up its scale.
    """
    tiles = Tiles(x.detach(), blocks.block, dim)
    out = torch.empty_like(x) if out is None else out
    key = fresh_key(stochastic) if isinstance(stochastic, torch.Generator) else stochastic
    if not tiles.full or not blocks.local or blocks.lies == "flat":
        _anyhow(blocks, dim)(out, x, key)
        return out
    # Cut here and not in what is compiled: with sizes as variables that would not be seen to be the same memory.
    source, sink = tiles.x, Tiles(out, blocks.block, dim).x
    inner = tuple(tiles.inner)
    if len(inner) == 1 and source.is_contiguous() and sink.is_contiguous() and x.numel() > 0:
        # As [blocks, size] or [blocks, size, rest]: fewer variables.
        (d,) = inner
        rest = math.prod(source.shape[d + 1 :])
        shape = (-1, source.shape[d]) if rest == 1 else (-1, source.shape[d], rest)
        source, sink, inner = source.view(shape), sink.view(shape), (1,)
    _on_tiles(blocks, inner)(sink, source, key)
    return out


@functools.cache
def _on_tiles(blocks: Blocks, inner: tuple[int, ...]) -> Callable[..., Tensor]:
    def run(out: Tensor, x: Tensor, key: Tensor | None) -> Tensor:
        return out.copy_(blocks.round_tiles(x, inner, key))

    return fused(run, row=blocks.block[-1])


@functools.cache
def _anyhow(blocks: Blocks, dim: int) -> Callable[..., Tensor]:
    def run(out: Tensor, x: Tensor, key: Tensor | None) -> Tensor:
        return out.copy_(blocks.round(x, dim, key))

    return fused(run)
