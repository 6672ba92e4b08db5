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
    rising = master >= previous
    if width == 1:
        return grid.directed(master, ~rising, scale=scale)
    low, high = grid.floor(master, scale=scale), grid.ceil(master, scale=scale)
    way = (1 + width) / 2 * (high - low)
    return torch.where(
        rising,
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


_SUFFIX = {"_hyst": Hysteresis, "_sr": Stochastic}
_KIND = {"nearest": Nearest, "stochastic": Stochastic, "hysteresis": Hysteresis}


def scheme(spec: str | Scheme, format: FormatSpec | None = None, width: float | None = None) -> Scheme:
    """The scheme that a name stands for.

    Args:
        spec: a format with nothing, `_hyst` or `_sr` behind it: "int8", "log4_hyst", "fp134_sr". Or, when `format`
            is given, "nearest", "stochastic" or "hysteresis". Or a Scheme, which is returned; `format` must be its own.
        format: as `lpt.formats.get` takes it.
        width: of hysteresis only; 1 if not given.

    Raises:
        ValueError: the scheme or the format is unknown, a width is given to a scheme without one, or another format
            than its own to a Scheme.
    """
    if not isinstance(spec, str):
        if format is not None and formats.get(format) != spec.format:
            raise ValueError(
                f"{type(spec).__name__} rounds to {spec.format.name}, and format={format!r} is another: give the "
                "scheme that format, in a yaml by `format: ${weights.format}` under its _target_"
            )
        if width is not None:
            raise ValueError(f"width={width} belongs to hysteresis; give {type(spec).__name__} its own arguments")
        return spec
    if format is None:
        suffix = next((s for s in _SUFFIX if spec.endswith(s)), "")
        kind, format = _SUFFIX.get(suffix, Nearest), spec.removesuffix(suffix)
        try:
            formats.get(format)
        except ValueError as error:
            raise ValueError(f"unknown weight scheme {spec!r}, a format with nothing, _hyst or _sr: {error}") from None
    elif spec in _KIND:
        kind = _KIND[spec]
    else:
        raise ValueError(f"unknown weight scheme {spec!r} for format {format!r}; valid: {', '.join(_KIND)}")
    if kind is Hysteresis:
        return Hysteresis(format, 1.0 if width is None else width)
    if width is not None:
        raise ValueError(f"width={width} belongs to hysteresis, got it with {spec!r}; leave width out")
    return kind(format)


def _check_width(width: float) -> None:
    if not 0 <= width <= 1:
        raise ValueError(f"width={width} is outside 0 (rounding to nearest) to 1 (the paper's hysteresis)")
