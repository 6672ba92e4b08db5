"""A tensor cut into blocks: each dimension that blocks lie along becomes two, which block and where in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from .scaling import finite_magnitude


class Tiles:
    """x in blocks.

    Args:
        x: any shape.
        block: (columns,) along `dim`, or (rows, columns), rows along the dimension before it (the last one before the
            first); a tensor of one dimension is a row.
        dim: a dimension of x.
        flat: x is cut as the matrix of its first dimension by all the others, whatever `dim`.

    Attributes:
        full: all blocks are whole, or there is one shorter block only. x is then tiled, a view; otherwise it keeps its
            shape, and what belongs to blocks is spread over their elements instead.
        x: the tensor, tiled if `full`.
        inner: the dimensions of a tiled tensor that lie within blocks.

    Raises:
        ValueError: `dim` is not a dimension of x.
    """

    def __init__(self, x: Tensor, block: tuple[int, ...], dim: int, flat: bool = False) -> None:
        if not isinstance(dim, int):
            raise ValueError(
                f"dim={type(dim).__name__} is not the number of a dimension: a block format finds its own scales; one "
                "that is to be used is given as scale="
            )
        if not -max(x.ndim, 1) <= dim < max(x.ndim, 1):
            raise ValueError(f"dim={dim} is not a dimension of a tensor of shape {tuple(x.shape)}")
        self.shape = x.shape
        self.flat = x.reshape(1) if x.ndim == 0 else x
        if flat:
            self.flat = x.flatten(1) if x.ndim > 1 else self.flat[:, None]
            dim = -1
        dim = dim % self.flat.ndim
        sizes = {dim: block[-1]}
        if len(block) == 2 and self.flat.ndim > 1:
            sizes[(dim - 1) % self.flat.ndim] = block[0]
        for d, size in sizes.items():
            if 0 < self.flat.shape[d] < size:  # min() would be a variable of compiled code
                sizes[d] = self.flat.shape[d]
        self.sizes = dict(sorted(sizes.items()))
        self.inner = [d + 1 + i for i, d in enumerate(self.sizes)]
        self.full = all(self.flat.shape[d] % size == 0 for d, size in self.sizes.items())
        self.x = self._tiled(self.flat) if self.full else self.flat

    def merged(self, y: Tensor) -> Tensor:
        """y, in the shape of `x`, in the shape that was given."""
        if self.full:
            for d in self.sizes:
                y = y.flatten(d, d + 1)
        return y if y.shape == self.shape else y.reshape(self.shape)

    def amax(self) -> Tensor:
        """The largest finite magnitude of each block, the inner dimensions kept at 1; float32 or float64."""
        return self.contents().amax

    def contents(self) -> Contents:
        """What the blocks hold."""
        if self.full:
            return Contents(self.x, self.inner)
        return Contents(self._tiled(self.flat), self.inner, self._tiled(torch.ones_like(self.flat)))

    def spread(self, part: Tensor) -> Tensor:
        """A part in the shape of `amax`, or of one element, so that it broadcasts against `x`."""
        if self.full:
            return part
        part = part.squeeze(tuple(self.inner))
        for d, size in self.sizes.items():
            if part.shape[d] > 1:
                # By an index: of an expanded view torch 2.14 compiles loops that leave out the last, shorter block.
                part = part.index_select(d, torch.arange(self.flat.shape[d], device=part.device) // size)
        return part

    def joined(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Parts in the shape of `amax`, without its inner dimensions; several of them stacked."""
        flat = [part.squeeze(tuple(self.inner)) for part in torch.broadcast_tensors(*parts)]
        return flat[0] if len(flat) == 1 else torch.stack(flat)

    def parted(self, scales: Tensor, count: int) -> tuple[Tensor, ...]:
        """What `joined` had joined, `count` parts.

        Raises:
            ValueError: they are not of this tensor's blocks.
        """
        outer = [-(-n // self.sizes.get(d, 1)) for d, n in enumerate(self.flat.shape)]
        wanted = [*([count] if count > 1 else []), *outer]
        if [*scales.shape] != wanted:
            raise ValueError(f"scales of shape {[*scales.shape]} are not those of these blocks, which have {wanted}")
        parts = scales.unbind(0) if count > 1 else (scales,)
        for d in self.inner:
            parts = tuple(part.unsqueeze(d) for part in parts)
        return parts

    def _tiled(self, x: Tensor) -> Tensor:
        """Each dimension of blocks as two, filled up with zeros."""
        for d, size in sorted(self.sizes.items(), reverse=True):
            if rest := -x.shape[d] % size:
                x = pad(x, [0, 0] * (x.ndim - 1 - d) + [0, rest])
            x = x.unflatten(d, (x.shape[d] // size, size))
        return x


class Contents:
    """Blocks of one tensor, from which their scales are found.

    Args:
        x: the tensor, tiled; shorter blocks are filled up with zeros.
        inner: its dimensions that lie within blocks.
        real: 1 where x has an element, 0 where a block was filled up; None: all blocks are whole.

    Attributes:
        amax: the largest finite |x| of each block, the inner dimensions kept at 1; float32 or float64.
    """

    def __init__(self, x: Tensor, inner: Sequence[int], real: Tensor | None = None) -> None:
        self.x, self.inner, self._real = x.detach(), tuple(inner), real
        self.amax = amax_within(self.x, self.inner)

    def mean_magnitude(self) -> Tensor:
        """The mean of |x| over each block's own elements, those that are not finite as zeros; shaped as `amax`."""
        return Contents(self.x.abs(), self.inner, self._real).mean(1)

    def octaves(self) -> tuple[Tensor, Tensor]:
        """Mean and largest log2|x| of what is finite and not 0 in each block, both 0 where nothing is; float64."""
        y = finite_magnitude(self.x.double())
        if y.numel() == 0:
            return torch.zeros_like(self.amax).double(), torch.zeros_like(self.amax).double()
        some = y > 0
        octave = torch.where(some, y, 1.0).log2()
        count = some.sum(self.inner, keepdim=True)
        mean = octave.sum(self.inner, keepdim=True) / count.clamp(min=1)
        top = torch.where(some, octave, -torch.inf).amax(self.inner, keepdim=True)
        return mean, torch.where(count > 0, torch.maximum(top, mean), 0.0)

    def mean(self, power: int) -> Tensor:
        """The mean of x**power over each block's own elements, those that are not finite as zeros; shaped as `amax`."""
        if self.x.numel() == 0:
            return torch.zeros_like(self.amax)
        x = self.x if self.x.dtype == torch.float64 else self.x.float()
        x = torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
        if self._real is None:
            return (x**power).mean(self.inner, keepdim=True)
        return (x**power).sum(self.inner, keepdim=True) / self._real.to(x.dtype).sum(self.inner, keepdim=True)


def amax_within(x: Tensor, inner: Sequence[int]) -> Tensor:
    """The largest finite |x| over the dimensions `inner`, kept at 1; float32 or float64.

    A maximum of floats, since across one vector of a processor that is compiled to much less than one of integers.
    """
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    if x.numel() == 0:
        return x.new_zeros([1 if d in inner else size for d, size in enumerate(x.shape)])
    return finite_magnitude(x).amax(tuple(inner), keepdim=True)
