"""A mixed assignment: for each slot of each product one of a few formats, as cheap or as good as it can be.

What each choice does to the gradient is measured alone (`parts`). The losses of one format are scaled so that their
sum is what it does everywhere; the choice of all is a knapsack over sums of costs and of losses (`knapsack`). What
comes out is measured as a whole, beside each format by itself, and gives way to one of these that is as cheap and
better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .candidates import Candidate, CandidateSpec, of_slots, resolve, uniform
from .mixing import Mixed, Mixing, Price
from .parts import Parts, total
from .probe import Probe

SPEND = ("bits", "hardware")
UNITS = {"bits": "bits", "hardware": "gates"}


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

    @property
    def unit(self) -> str:
        return UNITS[self.spend]

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
    probe: Probe, batches: Sequence[Any], menu: Sequence[Candidate], price: Price, spend: str = "bits",
    bound: float | None = None, budget: float | None = None,
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
    mixing = Mixing(probe, batches, menu, None if spend == "bits" else price)
    unit = UNITS[spend]
    _within(budget, mixing.least, unit)
    measured = mixing.measure()
    _within(budget, mixing.least, unit)  # of all batches
    if bound is None:
        costs = [each.cost for each in mixing.uniform]
        limit = (min(costs) + max(costs)) / 2 if budget is None else budget
        state = mixing.front.best(limit * (1 + 1e-9))
        tried = [mixing.at(state or 0), *(each for each in mixing.everywhere if each.mixed.cost <= limit)]
        best = min(tried, key=lambda each: (each.mixed.angle, each.mixed.cost))
        asked = f"the least angle at {limit:.4g} {unit}"
    else:
        tried = [*mixing.near(bound), *mixing.everywhere]
        kept = [each for each in tried if each.mixed.angle <= bound]
        if not kept:
            raise ValueError(
                f"bound={bound:g}: the best of this menu that was found turns the gradient by "
                f"{min(each.mixed.angle for each in tried):.2f} degrees, everything rounded: give a wider bound, or a "
                "finer format in menu"
            )
        best = min(kept, key=lambda each: (each.mixed.cost, each.mixed.angle))
        asked = f"the fewest {unit} within {bound:g} degrees"
    if len({*best.choice}) == 1:
        asked += f"; no mixture that was measured beats {menu[best.choice[0]].name} everywhere"
    chosen = mixing.chosen(best.choice)
    curve = zip(mixing.front.costs.tolist(), (total([loss]) for loss in mixing.front.losses.tolist()), strict=True)
    return Suggestion(
        chosen, best.mixed, best.predicted, sorted(mixing.uniform, key=lambda each: each.cost),
        mixing.products(best.choice), spend, asked, measured, [*curve][:: max(1, len(mixing.front.costs) // 200)],
    )  # fmt: skip


def _within(budget: float | None, least: float, unit: str) -> None:
    if budget is not None and budget < least:
        raise ValueError(
            f"budget={budget:g} is below the cheapest of the menu, {least:.6g} {unit}: give that much, or a cheaper "
            "format in menu"
        )
