"""A mixed assignment: for each slot of each product one of a few formats, as cheap or as good as it can be.

What each choice does to the gradient is measured alone (`parts`), the choice of all is a knapsack over the sums of
costs and of losses (`knapsack`), and what comes out is measured as a whole, beside each of the formats by itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..dataflow import Hadamard, Products, Slot
from ..dataflow.delayed import Delayed
from ..dataflow.slots import SLOTS
from ..formats import Format
from .candidates import Candidate, CandidateSpec, bits_of, of_slots, resolve, uniform
from .cost import Priced
from .knapsack import Front, front
from .parts import Parts, loss_of, parts, total
from .probe import Probe, angle_of

SPEND = ("bits", "hardware")
TRIES = 6  # measurements of a mixture until its angle is below a bound


@dataclass(frozen=True)
class Mixed:
    """A scheme that was measured as a whole: mean angle in degrees over the batches, and its cost."""

    name: str
    angle: float
    cost: float


@dataclass(frozen=True)
class Suggestion:
    """The assignment, and what it is to be compared with.

    Args:
        choices: product -> slot -> the name of the one of the menu.
        mixed: it; `predicted` is the angle that the sum of its parts gives.
        uniform: each of the menu everywhere, by rising cost.
        products: what `lpt.Products` and `products=custom` take.
        spend: "bits" of an operand, or "hardware", gate equivalents; means over multiply-adds.
        asked: what was asked for, for people.
    """

    choices: dict[str, dict[str, str]]
    mixed: Mixed
    predicted: float
    uniform: list[Mixed]
    products: dict[str, Any]
    spend: str
    asked: str
    front: list[tuple[float, float]] = field(default_factory=list)

    def __str__(self) -> str:
        unit = "bits an operand" if self.spend == "bits" else "gates a multiply-add"
        rows = [*self.uniform, self.mixed]
        lines = [f"{m.name:<28} {m.cost:>9.3f} {unit}   {m.angle:6.2f} degrees" for m in rows]
        return "\n".join(
            [f"suggested: {self.asked}", *lines, f"(by the sum of its parts: {self.predicted:.2f} degrees)"]
        )


def menu_of(specs: Sequence[CandidateSpec]) -> list[Candidate]:
    """The formats that a mixture is made of.

    Raises:
        ValueError: fewer than two, or one that is no choice of slots, or that transforms.
    """
    found = []
    for each in resolve(specs):
        if each.name == "fp32":
            each = Candidate("fp32", products=uniform("fp32"))
        slots = [slot for slot in each.slots.values() if slot is not None]
        if each.products is None:
            raise ValueError(
                f"menu: {each.name} is rounded in Edges, for all products that read a tensor: give a block format, "
                f"such as {each.name}/tensor, which is rounded in slots"
            )
        if each.products != of_slots(each.slots):
            raise ValueError(f"menu: {each.name} has rules or layers of its own: give formats or slots alone")
        if any(slot.turn is not None for slot in slots):
            raise ValueError(f"menu: {each.name} has a transform, which both operands of a product share: leave it out")
        found.append(each)
    if len(found) < 2:
        raise ValueError(f"menu: a mixture is made of two formats or more, got {len(found)}")
    return found


def suggest(
    probe: Probe, batches: Sequence[Any], menu: Sequence[Candidate], price: Callable[[Format], Priced | None],
    spend: str = "bits", bound: float | None = None, budget: float | None = None,
    known: Mapping[str, Parts] | None = None,
) -> Suggestion:  # fmt: skip
    """The cheapest mixture of `menu` that turns the gradient by at most `bound` degrees; or of least loss at `budget`.

    With neither, the budget is halfway between the cheapest and the dearest of the menu.

    Args:
        probe: entered, with the menu among its candidates.
        spend: what `budget` counts, "bits" or "hardware", as `price` says.
        known: what `parts` gave for the menu, if it is at hand.

    Raises:
        ValueError: a bound or budget that no mixture keeps, or a menu without a price.
    """
    assert probe.sites is not None
    measured = dict(known) if known else parts(probe, batches, menu)
    size = next(iter(measured.values())).size
    places = [(p, slot) for p in size for slot in SLOTS if any(slot in probe.sites.slots(c, p) for c in menu)]
    groups = [[_option(probe, c, p, s, measured[c.name], size, price, spend) for c in menu] for p, s in places]
    usable = [i for i in range(len(menu)) if all(group[i] is not None for group in groups)]
    if len(usable) < 2:
        raise ValueError(
            f"menu: fewer than two of {', '.join(c.name for c in menu)} have a price: spend=bits needs none"
        )
    menu = [menu[i] for i in usable]
    options = [[group[i] for i in usable] for group in groups]
    found = front(options)  # type: ignore[arg-type]
    scale = len(places) / (len(SLOTS) * len(size))
    uniforms = sorted(
        (Mixed(c.name, _angle(probe, batches, c), math.fsum(g[i][0] for g in options) / scale)  # type: ignore[index]
         for i, c in enumerate(menu)), key=lambda m: m.cost,
    )  # fmt: skip

    def mixture(state: int) -> tuple[Candidate, dict[str, dict[str, str]]]:
        chosen: dict[str, dict[str, str]] = {}
        for (product, slot), option in zip(places, found.choices[state], strict=True):
            chosen.setdefault(product, {})[slot] = menu[option].name
        each = Candidate("mixed", products=Products(**products_of(chosen, menu)))
        probe.sites.add(each)  # type: ignore[union-attr]
        return each, chosen

    def angle(state: int) -> float:
        return _angle(probe, batches, mixture(state)[0])

    if bound is None:
        middle = (uniforms[0].cost + uniforms[-1].cost) / 2 if budget is None else budget
        state = found.best(middle * scale)
        if state is None:
            raise ValueError(f"budget={middle:g} is below the cheapest of the menu, {uniforms[0].cost:.4g} ({spend})")
        asked = f"the least angle at {middle:.4g} {spend}"
    else:
        state, asked = _within(found, bound, angle), f"the fewest {spend} within {bound:g} degrees"
    each, chosen = mixture(state)
    curve = [(float(c) / scale, total([float(loss)])) for c, loss in zip(found.costs, found.losses, strict=True)]
    mixed = Mixed("mixed", _angle(probe, batches, each), float(found.costs[state]) / scale)
    return Suggestion(
        chosen, mixed, total([float(found.losses[state])]), uniforms, products_of(chosen, menu), spend, asked,
        curve[:: max(1, len(curve) // 200)],
    )  # fmt: skip


def _within(found: Front, bound: float, angle: Callable[[int], float]) -> int:
    """The cheapest state whose measured angle is at most `bound`: the loss that is aimed at follows what comes out."""
    aim, kept = loss_of(bound), None
    for _ in range(TRIES):
        state = found.cheapest(aim)
        state = len(found.costs) - 1 if state is None else state
        got = angle(state)
        if got <= bound and (kept is None or state < kept):
            kept = state
        elif kept is not None and state >= kept:
            break
        if state == len(found.costs) - 1 and got > bound:
            raise ValueError(f"bound={bound:g}: the best mixture of this menu turns the gradient by {got:.2f} degrees")
        aim = float(found.losses[state]) * loss_of(bound) / max(loss_of(got), 1e-300) * (1 if got <= bound else 0.95)
    return len(found.costs) - 1 if kept is None else kept


def _angle(probe: Probe, batches: Sequence[Any], each: Candidate) -> float:
    """Mean over the batches, all of it rounded, forward and back."""
    angles = []
    for n, batch in enumerate(batches):
        reference = probe.reference(batch)
        angles.append(angle_of(probe.gradient(batch, each, n), reference))
    return math.fsum(angles) / len(angles)


def _option(
    probe: Probe, each: Candidate, product: str, slot: str, own: Parts, size: Mapping[str, float],
    price: Callable[[Format], Priced | None], spend: str,
) -> tuple[float, float] | None:  # fmt: skip
    """Share of the cost, and loss, of one of the menu in one place; None where it has no price."""
    assert probe.sites is not None
    given = probe.sites.slots(each, product).get(slot)
    share = size[product] / math.fsum(size.values()) / len(SLOTS)
    if spend == "bits":
        cost = bits_of(given)
    else:
        priced = price(given.grid) if given is not None and given.rounds else None
        if priced is None:
            return None
        cost = priced.total
    return share * cost, own.loss.get(product, {}).get(slot, 0.0)


def products_of(chosen: Mapping[str, Mapping[str, str]], menu: Sequence[Candidate]) -> dict[str, Any]:
    """What `Products` takes: for each slot what most products have, and a rule for each product that differs."""
    by_name = {each.name: each.slots for each in menu}
    usual = {s: Counter(own[s] for own in chosen.values() if s in own).most_common(1)[0][0] for s in SLOTS}
    rules = []
    for product, own in chosen.items():
        differ = {slot: spelt(by_name[name][slot]) for slot, name in own.items() if name != usual[slot]}
        if differ:
            rules.append({"pattern": product, **differ})
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
