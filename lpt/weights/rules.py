"""The rules for the next quantized weight, as functions and as schemes.

nearest       Q_t = nearest level to w_t
stochastic    Q_t = one of the two neighbours of w_t, at random
hysteresis    Q_t = floor(w_t) if w_t >= Q_{t-1} else ceil(w_t)      (the paper's central equation)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import formats
from ..formats import Format

FormatSpec = str | Sequence[int] | Mapping[str, Any] | Format

# -- the rules, as functions ---------------------------------------------------------------------------------------


def nearest(master: Tensor, format: FormatSpec, scale: Tensor | int) -> Tensor:
    """The level of `format` at `scale` nearest to each master weight; the shape of `master`."""
    return formats.get(format).round(master, scale=scale)


def hysteresis(master: Tensor, previous: Tensor, format: FormatSpec, scale: Tensor | int, width: float = 1.0) -> Tensor:
    """The quantized weight that follows `previous`, which it leaves only when the master has moved far enough.

    Between the neighbouring levels lo <= hi around the master w, coming from below (w >= previous) it is hi from
    lo + (1 + width) / 2 * (hi - lo) upward, else lo; coming from above, mirrored. `previous` is the quantized
    weight of the step before, not the master; when the scale moved, the levels are those of the new grid.

    Args:
        master, previous: the same shape.
        format, scale: the grid; `scale` broadcasts. Of a block format, whose blocks lie along the last dimension: what
            its `scales` gives.
        width: 1 is the paper's rule, floor or ceil; 0 is rounding to nearest, ties included.

    Raises:
        ValueError: width outside [0, 1].
    """
    _check_width(width)
    grid = formats.get(format)
    if width == 0:
        return grid.round(master, scale=scale)
    if width == 1:
        return grid.directed(master, ~(master >= previous), scale=scale)
    return between(master, previous, grid.floor(master, scale=scale), grid.ceil(master, scale=scale), width)


def between(master: Tensor, previous: Tensor, low: Tensor, high: Tensor, width: Tensor | float) -> Tensor:
    """`hysteresis` between two given levels, of any width, also one that differs from weight to weight."""
    way = (1 + width) / 2 * (high - low)
    return torch.where(
        master >= previous,
        torch.where((master >= low + way) & (high > low), high, low),
        torch.where((master <= high - way) & (high > low), low, high),
    )


# -- schemes: (master, previous, scale, key) -> quantized ----------------------------------------------------------


class Scheme(Protocol):
    """A rule for the next quantized weight. Write a class with these and give it to QuantizedWeights."""

    format: Format
    stochastic: bool

    def __call__(self, master: Tensor, previous: Tensor, scale: Tensor, key: Tensor | None) -> Tensor:
        """The next quantized weight; all of the weight's shape, `scale` broadcasts; `key` seeds random bits
        and is None unless the scheme is `stochastic`."""
        ...


class Nearest:
    """Rounding to nearest, without memory: a master near a midpoint makes its weight flicker."""

    stochastic = False

    def __init__(self, format: FormatSpec) -> None:
        self.format = formats.get(format)

    def __call__(self, master: Tensor, previous: Tensor, scale: Tensor, key: Tensor | None) -> Tensor:
        return self.format.round(master, scale=scale)


class Stochastic:
    """Rounding to one of the two neighbours with a probability linear in the master's place between them."""

    stochastic = True

    def __init__(self, format: FormatSpec) -> None:
        self.format = formats.get(format)

    def __call__(self, master: Tensor, previous: Tensor, scale: Tensor, key: Tensor | None) -> Tensor:
        return self.format.round(master, scale=scale, stochastic=key)


class Hysteresis:
    """The paper's hysteresis quantization, with a `width` (see `hysteresis`).

    Raises:
        ValueError: width outside [0, 1].
    """

    stochastic = False

    def __init__(self, format: FormatSpec, width: float = 1.0) -> None:
        _check_width(width)
        self.format = formats.get(format)
        self.width = width

    def __call__(self, master: Tensor, previous: Tensor, scale: Tensor, key: Tensor | None) -> Tensor:
        return hysteresis(master, previous, self.format, scale, self.width)


def _check_width(width: float) -> None:
    if not 0 <= width <= 1:
        raise ValueError(f"width={width} is outside 0 (rounding to nearest) to 1 (the paper's hysteresis)")
