"""A tensor cut into blocks: each dimension that blocks lie along becomes two, which block and where in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from .scaling import finite_magnitude


class Tiles:
    """x in blocks, the last ones of a dimension filled up with zeros.

    Args:
        x: any shape.
        block: (columns,) along `dim`, or (rows, columns), rows along the dimension before it (the last one before the
            first); a tensor of one dimension is a row.
        dim: a dimension of x.

    Attributes:
        x: the tiled tensor, a view where nothing had to be filled up.

    Raises:
        ValueError: `dim` is not a dimension of x.
    """

    def __init__(self, x: Tensor, block: tuple[int, ...], dim: int) -> None:
        if not isinstance(dim, int) or not -max(x.ndim, 1) <= dim < max(x.ndim, 1):
            raise ValueError(f"dim={dim} is not a dimension of a tensor of shape {tuple(x.shape)}")
        self.shape = x.shape
        x = x.reshape(1) if x.ndim == 0 else x
        dim = dim % x.ndim
        along = [(dim, block[-1])]
        if len(block) == 2 and x.ndim > 1:
            along.append(((dim - 1) % x.ndim, block[0]))
        self.dims = sorted(d for d, _ in along)
        self.inner = [d + 1 + i for i, d in enumerate(self.dims)]  # in the tiled tensor: where in a block
        self.flat = x.shape
        for d, size in sorted(along, reverse=True):
            if 0 < x.shape[d] < size:  # one short block needs no filling up; min() would be a variable of compiled code
                size = x.shape[d]
            if rest := -x.shape[d] % size:
                x = pad(x, [0, 0] * (x.ndim - 1 - d) + [0, rest])
            x = x.unflatten(d, (x.shape[d] // size, size))
        self.x = x

    def merged(self, y: Tensor) -> Tensor:
        """y, in the shape of the tiles, in x's shape."""
        for d in self.dims:
            y = y.flatten(d, d + 1)
        for d in self.dims:
            if y.shape[d] != self.flat[d]:
                y = y.narrow(d, 0, self.flat[d]).contiguous()
        return y.view(self.shape) if self.shape != self.flat else y

    def amax(self) -> Tensor:
        """The largest finite magnitude of each block, the inner dimensions kept at 1; float32 or float64."""
        return amax_within(self.x, self.inner)

    def joined(self, parts: tuple[Tensor, ...]) -> Tensor:
        """Parts in the shape of `amax`, without its inner dimensions; several of them stacked."""
        flat = [part.squeeze(tuple(self.inner)) for part in torch.broadcast_tensors(*parts)]
        return flat[0] if len(flat) == 1 else torch.stack(flat)

    def parted(self, scales: Tensor, count: int) -> tuple[Tensor, ...]:
        """What `joined` had joined, `count` parts.

        Raises:
            ValueError: they are not of this tensor's blocks.
        """
        outer = [size for d, size in enumerate(self.x.shape) if d not in self.inner]
        wanted = [*([count] if count > 1 else []), *outer]
        if [*scales.shape] != wanted:
            raise ValueError(f"scales of shape {[*scales.shape]} are not those of these blocks, which have {wanted}")
        parts = scales.unbind(0) if count > 1 else (scales,)
        for d in self.inner:
            parts = tuple(part.unsqueeze(d) for part in parts)
        return parts


def amax_within(x: Tensor, inner: Sequence[int]) -> Tensor:
    """The largest finite |x| over the dimensions `inner`, kept at 1; float32 or float64.

    A maximum of floats, since across one vector of a processor that is compiled to much less than one of integers.
    """
    x = x.detach()
    x = x if x.dtype == torch.float64 else x.float()
    if x.numel() == 0:
        return x.new_zeros([1 if d in inner else size for d, size in enumerate(x.shape)])
    return finite_magnitude(x).amax(tuple(inner), keepdim=True)
