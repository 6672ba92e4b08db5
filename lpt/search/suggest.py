"""A mixed assignment: for each slot of each product one of a few formats, as cheap or as good as it can be.

What each choice does to the gradient is measured alone (`parts`). The losses of one format are scaled so that their
sum is what it does everywhere; the choice of all is a knapsack over sums of costs and of losses (`knapsack`). What
comes out is measured as a whole, beside each format by itself, and gives way to one of these that is as cheap and
better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..dataflow import Products
from ..dataflow.slots import SLOTS, Slot
from ..formats import Format
from .candidates import Candidate, CandidateSpec, bits_of, of_slots, resolve, uniform
from .cost import Priced
from .knapsack import Front, front
from .parts import Parts, loss_of, parts, total
from .probe import Probe, angle_of
from .spelling import products_of

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
        parts: what each slot of each product costs alone, of each of the menu.
    """

    choices: dict[str, dict[str, str]]
    mixed: Mixed
    predicted: float
    uniform: list[Mixed]
    products: dict[str, Any]
    spend: str
    asked: str
    parts: dict[str, Parts]
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
) -> Suggestion:  # fmt: skip
    """The cheapest mixture of `menu` that turns the gradient by at most `bound` degrees; or of least loss at `budget`.

    With neither, the budget is halfway between the cheapest and the dearest of the menu.

    Args:
        probe: entered, with the menu among its candidates, and with the first of the batches seen.
        spend: what `budget` counts, "bits" or "hardware", as `price` says.

    Raises:
        ValueError: a budget that no mixture keeps, or a menu without a price, before anything is measured; a bound that
            none keeps.
    """
    assert probe.sites is not None
    places = [
        (p, slot) for p in probe.sites.sites for slot in SLOTS if any(slot in probe.sites.slots(c, p) for c in menu)
    ]
    menu, costs = _priced(probe, menu, places, price, spend)
    _within_budget(_uniform_costs(costs, places, probe.sites.sizes()), budget, spend)
    measured = parts(probe, batches, menu)
    size = next(iter(measured.values())).size
    uniform_costs = _uniform_costs(costs, places, size)
    whole = math.fsum(size[product] for product, _ in places)  # of it the costs of a choice are means
    alone = [_angle(probe, batches, each) for each in menu]
    options = _scaled(
        [
            [(size[p] / whole * cost, measured[each.name].loss.get(p, {}).get(s, 0.0))
             for (p, s), cost in zip(places, own, strict=True)]
            for each, own in zip(menu, costs, strict=True)
        ],
        alone,
    )  # fmt: skip
    found = front(options)
    uniforms = [Mixed(each.name, *of) for each, *of in zip(menu, alone, uniform_costs, strict=True)]

    def mixture(choice: Sequence[int]) -> tuple[Candidate, dict[str, dict[str, str]]]:
        chosen: dict[str, dict[str, str]] = {}
        for (product, slot), option in zip(places, choice, strict=True):
            chosen.setdefault(product, {})[slot] = menu[option].name
        each = Candidate("mixed", products=Products(**products_of(chosen, menu)))
        probe.sites.add(each)  # type: ignore[union-attr]
        return each, chosen

    def angle_at(state: int) -> float:
        return _angle(probe, batches, mixture(found.choices[state])[0])

    if bound is None:
        middle = (min(uniform_costs) + max(uniform_costs)) / 2 if budget is None else budget
        state = found.best(middle * (1 + 1e-9))
        _within_budget([float(found.costs[0])], middle, spend)
        assert state is not None
        asked, rivals = f"the least angle at {middle:.4g} {spend}", [u for u in uniforms if u.cost <= middle]
    else:
        state, asked = _within(found, bound, angle_at), f"the fewest {spend} within {bound:g} degrees"
        rivals = [each for each in uniforms if each.angle <= bound]
    mixed = Mixed("mixed", angle_at(state), float(found.costs[state]))
    choice, predicted = list(found.choices[state]), total([float(found.losses[state])])
    for each in rivals:
        if (each.angle, each.cost) < (mixed.angle, mixed.cost) if bound is None else each.cost < mixed.cost:
            mixed, predicted = Mixed("mixed", each.angle, each.cost), each.angle
            choice = [uniforms.index(each)] * len(places)
    chosen = mixture(choice)[1]
    if len({name for own in chosen.values() for name in own.values()}) == 1:
        asked += f"; no mixture that was measured beats {menu[choice[0]].name} everywhere"
    curve = [(float(c), total([float(loss)])) for c, loss in zip(found.costs, found.losses, strict=True)]
    return Suggestion(
        chosen, mixed, predicted, sorted(uniforms, key=lambda each: each.cost), products_of(chosen, menu), spend, asked,
        measured, curve[:: max(1, len(curve) // 200)],
    )  # fmt: skip


def _scaled(options: Sequence[Sequence[Any]], angles: Sequence[float]) -> list[list[tuple[float, float]]]:
    """From [format][place] to [place][format], the losses of each format summing to what its angle everywhere says."""
    found: list[list[tuple[float, float]]] = [[] for _ in options[0]]
    for own, angle in zip(options, angles, strict=True):
        sum_of_parts = math.fsum(loss for _, loss in own)
        factor = min(loss_of(angle), 1e6) / sum_of_parts if sum_of_parts > 0 else 1.0
        for place, (cost, loss) in zip(found, own, strict=True):
            place.append((cost, loss * factor))
    return found


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
            raise ValueError(
                f"bound={bound:g}: the best mixture of this menu turns the gradient by {got:.2f} degrees, everything "
                "rounded: give a wider bound, or a finer format in menu"
            )
        aim = float(found.losses[state]) * loss_of(bound) / max(loss_of(got), 1e-300) * (1 if got <= bound else 0.95)
    return len(found.costs) - 1 if kept is None else kept


def _angle(probe: Probe, batches: Sequence[Any], each: Candidate) -> float:
    """Mean over the batches, all of it rounded, forward and back."""
    angles = []
    for n, batch in enumerate(batches):
        reference = probe.reference(batch)
        angles.append(angle_of(probe.gradient(batch, each, n), reference))
    return math.fsum(angles) / len(angles)


def _priced(
    probe: Probe, menu: Sequence[Candidate], places: Sequence[tuple[str, str]],
    price: Callable[[Format], Priced | None], spend: str,
) -> tuple[list[Candidate], list[list[float]]]:  # fmt: skip
    """Those of the menu that have a price everywhere, and of each what an operand costs in each place.

    Raises:
        ValueError: they are fewer than two.
    """
    assert probe.sites is not None

    def cost(given: Slot | None) -> float | None:
        if spend == "bits":
            return bits_of(given)
        priced = price(given.grid) if given is not None and given.rounds else None
        return None if priced is None else priced.total

    costs = [[cost(probe.sites.slots(each, product).get(slot)) for product, slot in places] for each in menu]
    usable = [(each, own) for each, own in zip(menu, costs, strict=True) if None not in own]
    if len(usable) < 2:
        raise ValueError(
            f"menu: fewer than two of {', '.join(c.name for c in menu)} have a price: spend=bits needs none"
        )
    return [each for each, _ in usable], [own for _, own in usable]  # type: ignore[misc]


def _uniform_costs(
    costs: Sequence[Sequence[float]], places: Sequence[tuple[str, str]], size: Mapping[str, float]
) -> list[float]:
    """Of each of the menu everywhere: the mean over the multiply-adds of all places."""
    whole = math.fsum(size[product] for product, _ in places)
    return [
        math.fsum(size[product] / whole * cost for (product, _), cost in zip(places, own, strict=True)) for own in costs
    ]


def _within_budget(costs: Sequence[float], budget: float | None, spend: str) -> None:
    if budget is not None and budget * (1 + 1e-9) < min(costs):
        raise ValueError(
            f"budget={budget:g} is below the cheapest of the menu, {min(costs):.4g} ({spend}): give that much, or a "
            "cheaper format in menu"
        )
