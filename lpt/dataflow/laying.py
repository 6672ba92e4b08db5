"""How the operands of products lie in memory, and how a slot's blocks are cut out of them without moving anything.

A contiguous operand is seen as (outer, p, q, inner): p and q are the two dimensions that a product sums over or keeps,
and tiles lie over them. Blocks of one dimension run along p, q, or, in the weight gradient of a convolution, the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import pad

BATCH = ("batch_p", "batch_q")  # over the batch; tiles have their columns along p or q
OTHER = {"p": "q", "q": "p", "batch_p": "batch_q", "batch_q": "batch_p"}  # seen with p and q exchanged


class Lay(NamedTuple):
    """Sizes of an operand's four dimensions, its memory in this order; `batch` is outer without its groups."""

    outer: int
    p: int
    q: int
    inner: int = 1
    batch: int = 1

    def along(self, over: str) -> tuple[int, int, int]:
        """The sizes before, of and behind dimension `over`: "p", "q", or the batch ("batch_p", "batch_q")."""
        if over in BATCH:
            return 1, self.batch, self.outer // self.batch * self.p * self.q * self.inner
        if over == "p":
            return self.outer, self.p, self.q * self.inner
        return self.outer * self.p, self.q, self.inner

    def turned(self) -> Lay:
        """That of the operand with its last two dimensions exchanged."""
        return Lay(self.outer, self.q, self.p, 1, self.batch)


class Laid(NamedTuple):
    """An operand to be rounded.

    Attributes:
        y: contiguous, its memory in the order of `lay`.
        over: what the product sums over, in `lay`.
        shape: of the operand as y has its dimensions; the last of them is number `last` of the operand.
    """

    y: Tensor
    lay: Lay
    over: str
    shape: Sequence[int]
    last: int = -1

    def back(self, y: Tensor) -> Tensor:
        """y, of as many elements in the same order, in the shape of the operand."""
        return y.reshape(self.shape).movedim(-1, self.last)


def laid(t: Tensor, lay: Lay, over: str, free: bool) -> Laid:
    """t, which `lay` would describe if it were contiguous: copied, unless it is; or unless p and q, each of some of its
    dimensions, are only the other way around in memory, and it is `free` to be seen like this."""
    if free and t.ndim > 1 and not t.is_contiguous():
        for last in (-2, 1):  # a matrix turned around; images whose channels come last
            y, rows = t.movedim(last, -1), t.shape[last]
            seen = (math.prod(t.shape[:last]), rows, math.prod(t.shape[last:][1:]), 1)
            if y.is_contiguous() and lay[:4] == seen:
                return Laid(y, lay.turned(), OTHER[over], y.shape, last)
    return Laid(t.contiguous(), lay, over, t.shape)


class Cut(NamedTuple):
    """An operand in blocks.

    Attributes:
        x: [blocks, size], [blocks, size, inner], or of tiles [.., rows, .., columns, inner].
        inner: its dimensions that lie within blocks.
        whole: the shape of the operand that was cut, filled up with zeros to whole blocks.
        sizes: the same before it was filled up.
    """

    x: Tensor
    inner: tuple[int, ...]
    whole: tuple[int, ...]
    sizes: tuple[int, ...]

    def joined(self, y: Tensor) -> Tensor:
        """y, in the shape of `x`, in the shape of `sizes`."""
        y = y.view(self.whole)
        for d, size in enumerate(self.sizes):
            if size != self.whole[d]:
                y = y.narrow(d, 0, size)
        return y.contiguous()  # a matrix product of others may add up in another order


def is_tile(block: Sequence[int] | None) -> bool:
    return block is not None and len(block) == 2 and block[0] > 1


def cut(x: Tensor, lay: Lay, over: str, block: Sequence[int]) -> Cut:
    """Cut x, which is contiguous and has elements, into blocks that run along `over`.

    Args:
        block: (columns,), or (rows, columns); of a tile columns lie along the p or q of `over`, rows along the other.
            A block is no longer than its dimension; a shorter one at the end is filled up.
    """
    sizes: tuple[int, ...] = lay[:4] if is_tile(block) else lay.along(over)
    blocks = {1: block[-1]}
    if is_tile(block):
        blocks = {1: block[0], 2: block[1]} if over.endswith("q") else {1: block[1], 2: block[0]}
    blocks = {d: size if size < sizes[d] else sizes[d] for d, size in blocks.items()}
    rests = {d: -sizes[d] % size for d, size in blocks.items()}
    y = x.view(sizes)
    if any(rests.values()):
        y = pad(y, [n for d in reversed(range(1, len(sizes))) for n in (0, rests.get(d, 0))])
    whole = tuple(y.shape)
    shape = [whole[0] * (whole[1] // blocks[1]), blocks[1]]
    if 2 in blocks:
        shape += [whole[2] // blocks[2], blocks[2]]
    rest = math.prod(whole[len(blocks) + 1 :])
    shape += [rest] if rest != 1 else []
    return Cut(y.view(shape), tuple(range(1, 2 * len(blocks), 2)), whole, sizes)
