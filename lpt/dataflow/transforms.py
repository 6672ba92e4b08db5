"""Hadamard transforms of both operands of a product, which cancel out in it.

With H the Sylvester matrix of size d (entries 1 and -1, H H = d I), S a diagonal of signs, and f the power of two
2**-floor(log2(d) / 2): an operand x becomes f H S x, so that (f H S x)^T (f H S w) = d f**2 x^T w. What is left over,
d f**2, is 1 for 16 and 64 and 2 for 32 and 128. All factors are powers of two and cancel without rounding. Where
`orthonormal` is asked for, f is d**-1/2 instead, and nothing is left over but what rounding leaves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats.noise import uniform


def transformed(x: Tensor, dim: int, size: int, signs: Tensor | None, orthonormal: bool = False) -> Tensor:
    """f H S x along `dim`, each `size` elements by themselves; by sums and differences, so no product is hidden here.

    Raises:
        ValueError: `size` does not divide the dimension.
    """
    y = _cut(x, dim, size)
    y = y if signs is None else y * signs[:size].to(y.dtype)
    return _joined(_butterflies(y, size, orthonormal), dim)


def undone(y: Tensor, dim: int, size: int, signs: Tensor | None, orthonormal: bool = False) -> Tensor:
    """x of y = f H S x."""
    x = _butterflies(_cut(y, dim, size), size, orthonormal) / left_over(size, orthonormal)
    return _joined(x if signs is None else x * signs[:size].to(x.dtype), dim)


def left_over(size: int, orthonormal: bool = False) -> int:
    """d f**2."""
    return 1 if orthonormal else 2 if (size.bit_length() - 1) % 2 else 1


def random_signs(size: int, key: Tensor) -> Tensor:
    """`size` times 1 or -1, a function of the key."""
    return torch.where(uniform(torch.empty(size, device=key.device), key) < 0.5, -1.0, 1.0)


def _butterflies(y: Tensor, size: int, orthonormal: bool) -> Tensor:
    half = 1
    while half < size:
        a, b = y.unflatten(-1, (-1, 2, half)).unbind(-2)
        y = torch.stack((a + b, a - b), -2).flatten(-3)
        half *= 2
    octaves = size.bit_length() - 1
    return y * 2.0 ** (-octaves / 2 if orthonormal else -(octaves // 2))


def _cut(x: Tensor, dim: int, size: int) -> Tensor:
    if x.shape[dim] % size:
        raise ValueError(
            f"a Hadamard transform of size {size} does not divide the {x.shape[dim]} elements that a product sums "
            "over: give a smaller one, fit: true for the largest that does, or leave this layer out by skip="
        )
    return x.movedim(dim, -1).unflatten(-1, (-1, size))


def _joined(y: Tensor, dim: int) -> Tensor:
    return y.flatten(-2).movedim(-1, dim)
