"""A choice of slots as a configuration spells it: what `lpt.Products` and `products=` take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from ..dataflow import Hadamard, Slot
from ..dataflow.delayed import Delayed
from ..dataflow.slots import SLOTS
from ..formats import Format
from .candidates import Candidate


def products_of(
    chosen: Mapping[str, Mapping[str, str]], menu: Sequence[Candidate], absent: Mapping[str, Collection[str]]
) -> dict[str, Any]:
    """What `Products` takes: for each slot what most products have, and a rule for each product that differs.

    Args:
        chosen: product -> slot -> name of one of the menu.
        absent: product -> slots that would have no effect there, as those of a weight that is frozen.
    """
    by_name = {each.name: each.slots for each in menu}
    counts = {s: Counter(own[s] for own in chosen.values() if s in own) for s in SLOTS}
    usual = {s: counted.most_common(1)[0][0] for s, counted in counts.items() if counted}
    rules = []
    for product, own in chosen.items():
        differ = {slot: spelt(by_name[name][slot]) for slot, name in own.items() if name != usual[slot]}
        differ |= dict.fromkeys(usual.keys() & set(absent[product]))
        if differ:
            rules.append({"pattern": product, **{slot: differ[slot] for slot in SLOTS if slot in differ}})
    return {**{slot: spelt(by_name[name][slot]) for slot, name in usual.items()}, "rules": rules}


def spelt(slot: Slot | None) -> Any:
    """As a configuration says it: a format's name, or a mapping of what is not as usual."""
    if slot is None or not slot.rounds:
        return None
    plain = Slot(slot.grid)
    found: dict[str, Any] = {"format": slot.grid.name}
    for each in fields(Slot)[1:]:
        value = getattr(slot, each.name)
        if value != getattr(plain, each.name):
            found[each.name] = _plain(value)
    return found["format"] if len(found) == 1 else found


def _plain(value: Any) -> Any:
    if isinstance(value, Format):
        return value.name
    return asdict(value) if isinstance(value, (Hadamard, Delayed)) else value
