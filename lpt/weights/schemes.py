"""From a name to a scheme: "log4_hyst", or "hysteresis" and a format."""

from __future__ import annotations

from typing import Any

from .. import formats
from .choosers import Debounce, DriftHysteresis, Freezing, QEma, RateHysteresis, Settling
from .remedy import Chooser
from .rules import FormatSpec, Hysteresis, Nearest, Scheme, Stochastic

_SUFFIX = {"_hyst": Hysteresis, "_sr": Stochastic}
_KIND: dict[str, Any] = {
    "nearest": Nearest,
    "stochastic": Stochastic,
    "hysteresis": Hysteresis,
    "q_ema": QEma,
    "freezing": Freezing,
    "rate_hysteresis": RateHysteresis,
    "drift_hysteresis": DriftHysteresis,
    "debounce": Debounce,
    "settling": Settling,
}


def scheme(spec: str | Scheme, format: FormatSpec | None = None, width: float | None = None) -> Scheme:
    """The scheme that a name stands for.

    Args:
        spec: a format with nothing, `_hyst` or `_sr` behind it: "int8", "log4_hyst", "fp134_sr". Or, when `format`
            is given, "nearest", "stochastic", "hysteresis", or a chooser with state, as it is by default: "q_ema",
            "freezing", "rate_hysteresis", "drift_hysteresis", "debounce", "settling". Or a Scheme, which is returned;
            `format` must be its own.
        format: as `lpt.formats.get` takes it.
        width: of hysteresis only; 1 if not given.

    Raises:
        ValueError: the scheme or the format is unknown, a width is given to a scheme without one, or another format
            than its own to a Scheme.
    """
    if not isinstance(spec, str) and not (callable(spec) and hasattr(spec, "format")):
        raise ValueError(f"the weight scheme {spec!r} is no name: give one such as log4_hyst, or a Scheme")
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
        kind: Any = _SUFFIX.get(suffix, Nearest)
        format = spec.removesuffix(suffix)
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
    return kind().scheme(Nearest(format)) if issubclass(kind, Chooser) else kind(format)
