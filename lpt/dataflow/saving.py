"""Names of a data flow's quantizers, and how saved ones find their places again.

"conv1/activation:0" is behind module conv1, "lstm[1]/error:0" behind its second output, "fc/error:1" the second part
of a dual one, "fc.weight/gradient:0" a weight's; "(input)[mask]/activation:0" the argument called mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..formats.scaling import NO_SCALE
from .placing import INPUT, Placing
from .quantizer import Quantizer
from .tracing import Roles

Gradients = Mapping[str, Quantizer]


def parts(placing: Placing, gradients: Gradients) -> dict[str, Quantizer]:
    """Every quantizer by name, the two of a dual one apart."""
    found = {}
    for edge in placing.edges.values():
        if edge.ran or not edge.waits:
            for name, quantizers in edge.everywhere().items():
                for kind, q in quantizers.items():
                    for i, part in enumerate(q.parts()):
                        found[f"{name}/{kind}:{i}"] = part
    for name, q in gradients.items():
        for i, part in enumerate(q.parts()):
            found[f"{name}/gradient:{i}"] = part
    return found


def load(placing: Placing, gradients: Gradients, state: Mapping[str, Any]) -> None:
    """Restore what `Flow.state_dict` gave; see there."""
    before = placing.last, placing.output
    if not placing.known:
        _adopt_roles(placing, state)
    _make_places(placing, state)
    own = parts(placing, gradients)
    saved = {n for n in state if n in own or n.rpartition("/")[0] not in placing.left_out}
    if own.keys() != saved:
        placing.forget(*before)
        odd = sorted(own.keys() ^ saved)
        raise ValueError(
            f"the saved scales are of another data flow: {len(odd)} places differ, for example {odd[0]!r}; "
            "resume with the model and format= of the saved run"
        )
    for name, part in own.items():
        part.load_state_dict(state[name])


def _adopt_roles(placing: Placing, state: Mapping[str, Any]) -> None:
    """Before the first forward pass, the saved names tell what is last: no activation, or an error in two parts."""
    names = [n for n, e in placing.every.items() if n != INPUT and n not in placing.left_out and not e.waits]
    names += list(placing.output)
    held = {n for n in names if f"{n}/activation:0" in state or f"{n}/error:0" in state}
    if not held:
        return
    has_activation = {n for n in names if placing.wants("activation", n)}
    last = {n for n in held if f"{n}/error:1" in state or (n in has_activation and f"{n}/activation:0" not in state)}
    output = set(names) - held
    started = {
        n.rpartition("/")[0] for n, part in state.items() if not part["scale"].is_meta and part["scale"] != NO_SCALE
    }
    placing.adopt(Roles((held & started) | output, last, output))


def _make_places(placing: Placing, state: Mapping[str, Any]) -> None:
    """Make what the state holds and what is otherwise made at first sight."""
    for key in state:
        name, _, kind = key.rpartition("/")
        module = name.partition("[")[0]
        edge = placing.every.get(module)
        if edge is None or kind.startswith("gradient"):
            continue
        edge.ran = edge.ran or edge.waits
        placing.mode.changes += 1
        if place := name[len(module) :]:
            edge.at(place)
            if module == INPUT:
                placing.entrance.chosen[place] = ""
