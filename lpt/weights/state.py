"""What the next steps depend on, as a dictionary, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .remedy import Chooser, Remedy, told
from .step import Plan
from .weight import Weight


def made(plan: Plan, granularity: str, master: str, remedy: Remedy | None = None) -> dict[str, Any]:
    """What a state belongs to: plain values, to be compared one by one."""
    acts = plan.scheme if isinstance(plan.scheme, Chooser) else remedy
    return {
        "format": plan.format.name,
        "scheme": type(plan.scheme).__name__,
        "width": getattr(plan.scheme, "width", None),
        "scaling": plan.scaling,
        "scale_rule": plan.scale_rule,
        "room": plan.room,
        "granularity": granularity,
        "master": master,
        "remedy": None if acts is None else told(acts),
    }


def saved(weights: Sequence[Weight]) -> dict[str, Any]:
    """name of what -> name of the weight -> tensor."""
    found: dict[str, Any] = {"masters": {}, "quantized": {}, "scales": {}}
    for w in weights:
        for what, value in w.state().items():
            found.setdefault(what, {})[w.name] = value
    return found


def check(state: Mapping[str, Any], weights: Sequence[Weight], own: Mapping[str, Any]) -> None:
    """Refuse a state of other weights, or of weights quantized in another way.

    A state of an earlier version does not say how its weights were quantized; it need only have their shapes.

    Raises:
        ValueError: it is one.
    """
    names = {w.name for w in weights}
    if state["masters"].keys() != names:
        odd = sorted(state["masters"].keys() ^ names)
        raise ValueError(
            f"the saved masters are of other weights: {len(odd)} differ, for example {odd[0]!r}; "
            "resume with the model and weights= of the saved run"
        )
    told = state.get("made", own)
    differ = [f"{key} {told.get(key)!r}, not {value!r}" for key, value in own.items() if told.get(key) != value]
    differ += list(filter(None, (w.why_not(state) for w in weights)))[:1]
    if differ:
        raise ValueError(
            f"the saved weights were quantized in another way ({'; '.join(differ)}): make them as they were saved, or "
            "load the model alone and begin with new masters"
        )
