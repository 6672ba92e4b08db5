"""MS-EDEN: elements to nearest, and block scales that make up for what that loses (Quartet II, 2601.22813).

Rounding to nearest shrinks or stretches a vector. EDEN multiplies the result by <x, x> / <x, Q(x)>, so that it is right
along x; after a random rotation it is then unbiased. Here that factor goes into the E4M3 scales of the vector's blocks,
which are rounded stochastically, so that it is not lost.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .block_scales import E4M3, TwoLevel
from .blocks import Blocks


def round_eden(blocks: Blocks, x: Tensor, dim: int, group: int, key: Tensor) -> Tensor:
    """x in `blocks` along dim, each `group` elements with a factor of their own.

    y = x / (b / G) is rounded to nearest, q; b becomes b * <y, y> / <y, q>, rounded to E4M3 stochastically; values are
    q * b / G. (As in the authors' kernel, both sums are over scaled elements; a b of 0 counts as 1.)

    Args:
        blocks: with scales of e4m3, in blocks of one dimension.
        x: any floating tensor.
        dim: blocks and groups lie along it.
        group: elements; the next multiple of the block is taken.
        key: int64, of the random bits of scales.

    Raises:
        ValueError: other blocks.
    """
    check_eden(blocks)
    assert isinstance(blocks._scales, TwoLevel)
    size = blocks.block[0]
    rows = x.detach().float().movedim(dim, -1)
    n = rows.shape[-1]
    if not rows.numel():
        return torch.zeros_like(x)
    b, whole = blocks.scales(rows)
    b = torch.where(b == 0, 1.0, b)
    cut = pad(rows, (0, -n % size)).unflatten(-1, (-1, size))  # [..., blocks, size]
    y = cut / (b / whole)[..., None]
    q = blocks.element.round(y)
    per = -(-group // size)  # blocks of a group
    squares, products = (_summed((y * other).sum(-1), per) for other in (y, q))
    factor = torch.where(products == 0, 1.0, squares / products)
    b = E4M3.round((b * factor).contiguous(), stochastic=key)
    value = (q * b[..., None] / whole[..., None]).flatten(-2)[..., :n]
    return value.movedim(-1, dim).to(x.dtype)


def check_eden(blocks: object) -> None:
    """Raise a ValueError where `round_eden` would."""
    if not isinstance(blocks, Blocks) or blocks.scale != "e4m3" or len(blocks.block) != 1:
        name = getattr(blocks, "name", blocks)
        raise ValueError(f"rounding=eden corrects E4M3 scales of blocks in one dimension, such as nvfp4's; got {name}")


def _summed(each: Tensor, per: int) -> Tensor:
    """Sums over each `per` blocks along the last dimension, in the shape of `each`."""
    n = each.shape[-1]
    groups = pad(each, (0, -n % per)).unflatten(-1, (-1, per))
    return groups.sum(-1, keepdim=True).expand_as(groups).flatten(-2)[..., :n]
