"""`get`: from what a user writes to a format, whether one scale serves a tensor or each of its blocks has its own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from .base import Format
from .block_options import USUAL
from .blocks import Blocks
from .names import NAMED, FormatSpec, per_tensor


def get(spec: FormatSpec | Mapping[str, Any]) -> Format:
    """The format that `spec` names.

    Args:
        spec: as `lpt.formats.names.per_tensor` has it: `fp134`, `int8`, `ocp_e4m3`, `[5,5,4,3,2,1]`, ...
            Or a block format, which is a `Blocks`: `mxfp8_e4m3`, `mxfp8_e5m2`, `mxfp6_e3m2`, `mxfp6_e2m3`, `mxfp4`,
            `mxint8` (floor rule), with `_rceil`, `_even` or `_ceil` behind them another rule; `nvfp4`; `bm8_a`,
            `bm8_e`; "element/block", "element/block/scale" or "element/block/scale/rule", such as "fp134/32" and
            "ocp_e4m3/1x128/fp32/pow2", and options behind them ("/min_scale=0.015625"); or a mapping of what `Blocks`
            takes. "line" for a block is all along the dimension.

    Raises:
        ValueError: anything else; the message names the nearest match.
    """
    if isinstance(spec, Blocks):
        return spec
    if isinstance(spec, Mapping) and "element" in spec:
        return _blocks(spec)
    if isinstance(spec, str) and (spec in NAMED or "/" in spec):
        return _spelt(NAMED.get(spec, spec))
    return per_tensor(spec)  # type: ignore[arg-type]  # and if it is none, refuse it


@cache
def _spelt(text: str) -> Blocks:
    """Of "element/block/scale/rule/option=value/..."."""
    element, block, *rest = text.split("/")
    given: dict[str, Any] = {"element": element, "block": _sizes(block)}
    given |= dict(zip(("scale", "rule"), [part for part in rest if "=" not in part], strict=False))
    for part in rest:
        key, equals, value = part.partition("=")
        if equals:
            given[key] = _value(value)
    if len(rest) > len(given) - 2:
        raise ValueError(f"{text!r} is no block format: write element/block/scale/rule, such as fp134/32/e8m0/floor")
    return _blocks(given)


def _sizes(text: str) -> Any:
    sizes = text.split("x")
    return [int(n) for n in sizes] if all(n.isdecimal() for n in sizes) else text


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text) if "." in text or "e" in text else int(text)
    except ValueError:
        return text


def _blocks(given: Mapping[str, Any]) -> Blocks:
    names = {str(key): value for key, value in given.items()}
    valid = ("element", "block", "scale", "rule", *USUAL)
    if set(names) - set(valid) or not {"element", "block"} <= set(names):
        raise ValueError(
            f"a block format has an element, a block and any of {', '.join(valid[2:])}, got {', '.join(names)}; write "
            "for example {element: ocp_e2m1, block: 32, rule: rceil}"
        )
    return Blocks(**names)
