"""Plain NumPy for references of recipes: float64, written from the rules, apart from lpt.

x (tokens, in), w (out, in), e (tokens, out). Blocks lie along the last dimension: along another one, transpose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
_SMALL = [m * 2.0**-9 for m in range(8)]
E4M3 = np.array([*_SMALL, *((8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8))][:-1])  # up to 448


@dataclass(frozen=True)
class Draws:
    """Random numbers of one run of a layer, those that the layer takes.

    Attributes:
        uniform: (slot, shape) -> numbers in [0, 1), row by row.
        signs: (product, size) -> 1 and -1.
    """

    uniform: Callable[[str, tuple[int, ...]], Array]
    signs: Callable[[str, int], Array]


def nearest(y: Array, levels: Array) -> Array:
    """The nearest of +-levels; at a tie the one with the even place, which for floats is the even significand."""
    distance = np.abs(np.abs(y)[..., None] - levels)
    near = distance == distance.min(-1, keepdims=True)
    return np.sign(y) * levels[(near * (1 + (np.arange(len(levels)) % 2 == 0))).argmax(-1)]


def stochastic(y: Array, levels: Array, u: Array) -> Array:
    """Up to the next larger number with the probability of its place between its neighbours, on the signed axis."""
    signed = np.unique(np.concatenate([-levels, levels]))
    y = y.clip(signed[0], signed[-1])
    below = signed[(np.searchsorted(signed, y, "right") - 1).clip(0)]
    above = signed[np.searchsorted(signed, y, "left").clip(max=len(signed) - 1)]
    return np.where(u * (above - below) < y - below, above, below)


def cut(x: Array, size: int) -> Array:
    """[rows, blocks, size]; the last block filled up with zeros."""
    return np.pad(x, ((0, 0), (0, -x.shape[1] % size))).reshape(len(x), -1, size)


def largest(x: Array, size: int) -> Array:
    return np.abs(cut(x, size)).max(-1)


def over(scale: Array, size: int, x: Array) -> Array:
    """A scale for each `size` elements of a row, in x's shape."""
    return np.repeat(scale, size, -1)[:, : x.shape[1]]


def e8m0(x: Array) -> Array:
    """MX scales that do not saturate E2M1: the smallest power of two by which amax is at most 6. In x's shape."""
    return over(2.0 ** np.ceil(np.log2(largest(x, 32) / 6)), 32, x)


def nvfp4(x: Array, high: float = 6, target: float = 448, whole: Array | float | None = None) -> Array:
    """NVFP4's scales: E4M3(amax / high, in units of which the largest is `target`), times that unit. In x's shape."""
    unit = (np.abs(x).max() if whole is None else whole) / (target * high)
    return over(nearest(largest(x, 16) / high / unit, E4M3) * unit, 16, x)


def tiles(w: Array, scale_of: Callable[[Array], Array]) -> Array:
    """Scales of tiles of 16 x 16, by a rule for blocks: each tile as one block. In w's shape."""
    rows, columns = len(w) // 16, w.shape[1] // 16
    each = w.reshape(rows, 16, columns, 16).transpose(0, 2, 1, 3).reshape(rows, columns, 256)
    amax = np.abs(each).max(-1)
    scale = scale_of(np.repeat(amax[..., None], 16, -1).reshape(rows, -1))  # blocks of 16 that have the tiles' amax
    return np.kron(scale[:, ::16], np.ones((16, 16)))


def hadamard(size: int) -> Array:
    """Sylvester's, orthogonal."""
    h = np.ones((1, 1))
    while len(h) < size:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(size)


def fitting(n: int, size: int) -> int:
    while n % size:
        size //= 2
    return size


def turn(x: Array, size: int, signs: Array | None = None) -> Array:
    """H (signs x), each `size` elements of a row by themselves."""
    y = cut(x, size) * (1 if signs is None else signs[:size])
    return (y @ hadamard(size)).reshape(x.shape)


def back(y: Array, size: int, signs: Array | None = None) -> Array:
    """x of y = turn(x)."""
    x = (cut(y, size) @ hadamard(size)) * (1 if signs is None else signs[:size])
    return x.reshape(y.shape)
