"""Which choices there are for a model's quantized weights, and which go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..formats import Format
from ..formats.scaling import NO_SCALE, RULES, check_room
from .scales import LEARNED, check_real
from .step import SCALINGS

CHOICES = {
    "scaling": SCALINGS,
    "scale_rule": RULES,
    "granularity": ("channel", "tensor"),
    "momentum_use": ("exact", "rounded"),
    "decay": ("master", "quantized"),
}


def check_choices(given: Mapping[str, Any]) -> None:
    """Refuse an argument of `QuantizedWeights` that is none of its words, and a room that no scale can have.

    Raises:
        ValueError: one is.
    """
    for key, valid in CHOICES.items():
        if given[key] not in valid:
            raise ValueError(f"{key}={given[key]!r} is not one of {', '.join(valid)}")
    check_room("room", given["room"], NO_SCALE)


def check_scales(format: Format, scaling: str, scale_rule: str, room: int) -> None:
    """Refuse a way to find scales that the format does not have.

    Raises:
        ValueError: it does not.
    """
    if scaling == LEARNED:
        check_real(format)
        scaling = "current"
    if format.block is not None and (scaling, scale_rule, room) != ("current", "rounded", 0):
        raise ValueError(
            f"{format.name} is a block format, with a rule and room of its own: leave scaling, "
            "scale_rule and room out, and name another one for another rule (mxfp4_ceil, fp134/32/e8m0/even/room=1)"
        )
