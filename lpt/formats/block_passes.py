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
        out: of x's shape and dtype; may be x.

    What does not fill its last block is copied first, to be filled up.
    """
    # Cut here and not in what is compiled: with sizes as variables that would not be seen to be the same memory.
    tiles = Tiles(x.detach(), blocks.block, dim)
    given = None if out is None else Tiles(out, blocks.block, dim).x
    in_place = given is not None and given.data_ptr() == out.data_ptr()  # type: ignore[union-attr]
    target = given if in_place and given is not None else torch.empty_like(tiles.x)
    key = fresh_key(stochastic) if isinstance(stochastic, torch.Generator) else stochastic
    source, sink, inner = _plain(tiles, tiles.x), _plain(tiles, target), tuple(tiles.inner)
    if source is None or sink is None:
        source, sink = tiles.x, target
    else:
        inner = (1,)
    _compiled(blocks, inner)(sink, source, key)
    if in_place and out is not None:
        return out
    result = tiles.merged(target)
    return result if out is None else out.copy_(result)


def _plain(tiles: Tiles, x: Tensor) -> Tensor | None:
    """Blocks of one dimension in contiguous memory as [blocks, size] or [blocks, size, rest]: fewer variables."""
    if len(tiles.inner) != 1 or not x.is_contiguous() or x.numel() == 0:
        return None
    (d,) = tiles.inner
    rest = math.prod(x.shape[d + 1 :])
    return x.view(-1, x.shape[d]) if rest == 1 else x.view(-1, x.shape[d], rest)


@functools.cache
def _compiled(blocks: Blocks, inner: tuple[int, ...]) -> Callable[..., Tensor]:
    def run(out: Tensor, x: Tensor, key: Tensor | None) -> Tensor:
        return out.copy_(blocks.round_tiles(x, inner, key))

    return fused(run, row=blocks.block[-1])
