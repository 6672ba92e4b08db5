"""What a data flow is asked to be: formats of A, E and G, and how their scales and rounding work."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..formats import Format
from ..formats.names import per_tensor
from ..formats.scaling import RULES, check_room

FormatSpec = str | Sequence[int] | Format


@dataclass(frozen=True)
class DataFlow:
    """Which formats A, E and G have, and how their scales and rounding work.

    Args:
        activation, error, gradient: formats, as `lpt.formats.names.per_tensor` takes them; "fp32" leaves a kind alone.
        scaling: "tracked", a scale that moves by at most one a step, or "current", from each tensor's maximum.
        rounding: "nearest" or "stochastic", for E and G (A is always rounded to nearest).
        scale_rule: when a largest value counts to the octave above (`lpt.formats.Format.carry`): "floor", never;
            "rounded", where rounding it would reach that octave; "ceil"; "rceil".
        room_activation, room_error, room_gradient: octaves of headroom above the largest value.
        input, last_error: "dual" (the sum of two values of the format), "dual_shared" (both at the scale of the
            first), "single", or "fp32" for the network's input and for the error of its last product.
        input_arguments: globs of the names of the model's arguments that are activations ("x", "batch.images"); by
            default the first, and those that enter a product as they are. Integers and truth values never are, nor is
            what holds infinities at the first pass.
        last: glob of the names of the last products, whose output is not quantized; by default those that the model
            names as its `last_products`, or else those whose values enter no other product in the first forward pass.
        rules: mappings with a `pattern` (a glob of module names) and any of activation, error, gradient: what
            matches gets these formats instead; later rules win.
        seed: of stochastic rounding.

    Raises:
        ValueError: an unknown format, choice or key.
    """

    activation: FormatSpec = "fp134"
    error: FormatSpec = "fp134"
    gradient: FormatSpec = "fp134"
    scaling: str = "tracked"
    rounding: str = "nearest"
    scale_rule: str = "floor"
    room_activation: int = 1
    room_error: int = 1
    room_gradient: int = 2
    input: str = "dual"
    last_error: str = "dual"
    last: str | None = None
    rules: Sequence[Mapping[str, Any]] = ()
    seed: int = 0
    input_arguments: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for kind in ("activation", "error", "gradient"):
            per_tensor(getattr(self, kind))
        _choice("scaling", self.scaling, "tracked", "current")
        _choice("scale_rule", self.scale_rule, *RULES)
        _choice("rounding", self.rounding, "nearest", "stochastic")
        _choice("input", self.input, "dual_shared", "dual", "single", "fp32")
        _choice("last_error", self.last_error, "dual_shared", "dual", "single", "fp32")
        if isinstance(self.input_arguments, str):
            raise ValueError(f"input_arguments={self.input_arguments!r} is not a list of names: write ['x', 'other']")
        for room in ("room_activation", "room_error", "room_gradient"):
            check_room(room, getattr(self, room))
        if isinstance(self.rules, str) or not isinstance(self.rules, Sequence):
            raise ValueError(f"rules={self.rules!r} is not a list of rules")
        for rule in self.rules:
            if not isinstance(rule, Mapping):
                raise ValueError(f"the rule {rule!r} is not a mapping: write {{pattern: 'layer4.*', error: fp152}}")
            if "pattern" not in rule or set(rule) - {"pattern", "activation", "error", "gradient"}:
                raise ValueError(
                    f"a rule has a pattern and any of activation, error, gradient; got {dict(rule)}: "
                    "write for example {pattern: 'layer4.*', error: fp152}"
                )
            for kind in set(rule) - {"pattern"}:
                per_tensor(rule[kind])

    def format_of(self, kind: str, name: str) -> Format:
        """The format of `kind` ("activation", "error", "gradient") at the module called `name`."""
        spec = getattr(self, kind)
        for rule in self.rules:
            if kind in rule and fnmatch.fnmatchcase(name, rule["pattern"]):
                spec = rule[kind]
        return per_tensor(spec)


def _choice(key: str, got: str, *valid: str) -> None:
    if got not in valid:
        raise ValueError(f"{key}={got!r} is not one of {', '.join(valid)}")
