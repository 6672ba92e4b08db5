"""The options of block scales: which kinds and rules have them, and what they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .block_scales import SCALES

USUAL = {
    "room": 0, "min_scale": None, "tensor_scale": True, "spread": None, "factor": 1.0, "target": None, "headroom": 1.0,
    "outer": None, "exponent": None,
}  # fmt: skip
_POSITIVE = ("spread", "factor", "target", "headroom")


def changed(scale: str, rule: str, block: tuple[int, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not as usual.

    Raises:
        ValueError: an option that this kind of scale, rule or block has not, or a value that it cannot have.
    """
    if odd := sorted(given.keys() - USUAL.keys()):
        raise ValueError(f"{odd[0]} is no option of a block format; there are {', '.join(USUAL)}")
    options = {**USUAL, **given}
    found = {key: value for key, value in options.items() if value != USUAL[key]}
    for key, value in found.items():
        if key not in SCALES[scale].options:
            raise ValueError(f"{key}={value} is no option of {scale} scales; leave it out")
        if key in _POSITIVE and not (_number(value) and 0 < value < math.inf):
            raise ValueError(f"{key}={value!r}: give a positive number")
    if not isinstance(options["room"], int) or isinstance(options["room"], bool) or abs(options["room"]) > 127:
        raise ValueError(f"room={options['room']!r}: give octaves of headroom, a whole number")
    if (least := options["min_scale"]) is not None and not (_number(least) and 0 <= least < math.inf):
        raise ValueError(f"min_scale={least!r}: give the smallest scale of a block, 0 or more")
    if not isinstance(options["tensor_scale"], bool):
        raise ValueError(f"tensor_scale={options['tensor_scale']!r} is neither true nor false")
    if (rule in ("rms", "std")) != (options["spread"] is not None):
        raise ValueError(f"rule={rule}: rules rms and std have a spread, such as spread=2.514, and no other has one")
    given, static = options["exponent"], scale == "static"
    if static and not (isinstance(given, int) and not isinstance(given, bool) and abs(given) <= 127):
        raise ValueError(f"exponent={given!r}: a static scale is 2**exponent, so give a whole number, -127 to 127")
    _check_outer(options["outer"], block, options["tensor_scale"])
    return found


def _check_outer(outer: Any, block: tuple[int, ...], tensor_scale: bool) -> None:
    if outer is None:
        return
    whole = isinstance(outer, int) and not isinstance(outer, bool) and outer > 0
    if not whole or len(block) != 1 or outer % block[0] or not tensor_scale:
        raise ValueError(
            f"outer={outer!r}: give a multiple of the block's {block[-1]} elements; tiles, and formats with "
            "tensor_scale=False, have none"
        )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
