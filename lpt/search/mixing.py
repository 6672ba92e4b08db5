"""Choices of one format of a menu for each slot of each product: their costs, and what is measured of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..dataflow import Products
from ..dataflow.slots import SLOTS, Slot
from ..formats import Format
from .candidates import Candidate, bits_of
from .cost import Priced
from .knapsack import Front, front
from .parts import MOST, Parts, loss_of, parts, total
from .probe import Probe, angle_of
from .spelling import products_of

TRIES = 12  # measurements on the way to the cheapest mixture within a bound
DIGITS = 9  # of costs: sums of shares have no more
Place = tuple[str, str]  # product, slot
Price = Callable[[Format], Priced | None]


@dataclass(frozen=True)
class Mixed:
    """A scheme that was measured as a whole: mean angle in degrees over the batches, and its cost."""

    name: str
    angle: float
    cost: float


@dataclass(frozen=True)
class Tried:
    """A choice, by places, that was measured; `predicted` is the angle that the sum of its parts gives."""

    mixed: Mixed
    choice: Sequence[int]
    predicted: float


@dataclass
class Mixing:
    """What can be chosen, and what it costs.

    Args:
        probe: entered, with the menu among its candidates, and with the first of the batches seen.
        menu: for each place one of these.
        price: of a format; None counts bits.

    Raises:
        ValueError: one of the menu has no price somewhere.
    """

    probe: Probe
    batches: Sequence[Any]
    menu: Sequence[Candidate]
    price: Price | None = None
    places: list[Place] = field(init=False)
    costs: list[list[float]] = field(init=False)  # of each of the menu, in each place
    shares: list[float] = field(init=False)  # of the multiply-adds, those that read a place

    def __post_init__(self) -> None:
        assert self.probe.sites is not None
        self._sites = self.probe.sites
        self._lay(self._sites.sizes())

    def _lay(self, size: Mapping[str, Mapping[str, float]]) -> None:
        """The places that were seen to be read, and what each of the menu costs there."""
        slots = {p: [self._sites.slots(each, p) for each in self.menu] for p in size}
        self.places = [(p, s) for p, own in size.items() for s in own if any(s in of for of in slots[p])]
        whole = math.fsum(size[p][s] for p, s in self.places)
        self.shares = [size[p][s] / whole for p, s in self.places]
        costs = [[self._cost(slots[p][i].get(s)) for p, s in self.places] for i in range(len(self.menu))]
        if without := [each.name for each, own in zip(self.menu, costs, strict=True) if None in own]:
            raise ValueError(
                f"menu: {', '.join(without)} has no price everywhere, as full precision has none: leave it out, or "
                "give spend=bits, which needs none"
            )
        self.costs = costs  # type: ignore[assignment]
        self.absent = {p: [s for s in SLOTS if not any(s in of for of in slots[p])] for p in size}

    @property
    def least(self) -> float:
        """The cost of the cheapest mixture."""
        return self.mean(list(map(min, zip(*self.costs, strict=True))))

    def mean(self, costs: Sequence[float]) -> float:
        """Over the multiply-adds of all places."""
        return round(math.fsum(share * cost for share, cost in zip(self.shares, costs, strict=True)), DIGITS)

    def measure(self) -> dict[str, Parts]:
        """Each of the menu, alone in each place and everywhere; with that, which mixtures nothing beats."""
        self.parts = parts(self.probe, self.batches, self.menu)
        self._lay(next(iter(self.parts.values())).size)
        self.uniform = [
            Mixed(c.name, self._angle(c), self.mean(own)) for c, own in zip(self.menu, self.costs, strict=True)
        ]
        options: list[list[tuple[float, float]]] = [[] for _ in self.places]
        for each, costs, uniform in zip(self.menu, self.costs, self.uniform, strict=True):
            losses = [self.parts[each.name].loss(p, s) for p, s in self.places]
            scale = min(loss_of(uniform.angle), MOST) / (math.fsum(losses) or 1.0)  # so that they sum to what it does
            for own, share, cost, loss in zip(options, self.shares, costs, losses, strict=True):
                own.append((share * cost, loss * scale))
        self.front: Front = front(options)
        return self.parts

    def chosen(self, choice: Sequence[int]) -> dict[str, dict[str, str]]:
        """Product -> slot -> name of the one of the menu."""
        found: dict[str, dict[str, str]] = {product: {} for product in self._sites.sites}
        for (product, slot), option in zip(self.places, choice, strict=True):
            found[product][slot] = self.menu[option].name
        return found

    def products(self, choice: Sequence[int]) -> dict[str, Any]:
        """What `Products` takes; a product that no batch came to has what most others have."""
        return products_of(self.chosen(choice), self.menu, self.absent)

    def at(self, state: int) -> Tried:
        """One of the front, measured."""
        choice = self.front.choices[state]
        each = Candidate("mixed", products=Products(**self.products(choice)))
        self._sites.add(each)
        mixed = Mixed("mixed", self._angle(each), round(float(self.front.costs[state]), DIGITS))
        return Tried(mixed, choice, total([float(self.front.losses[state])]))

    @property
    def everywhere(self) -> list[Tried]:
        """Each of the menu in all places."""
        return [
            Tried(Mixed("mixed", each.angle, each.cost), [i] * len(self.places), each.angle)
            for i, each in enumerate(self.uniform)
        ]

    def near(self, bound: float) -> list[Tried]:
        """Measured states near an angle, by bisection, since dearer ones turn the gradient less, as a rule; and the
        dearest one, if none of them keeps it."""
        tried: dict[int, Tried] = {}
        over, last = -1, len(self.front.costs) - 1
        aimed, kept = self.front.cheapest(loss_of(bound)), last
        state = last if aimed is None else aimed
        while state not in tried and len(tried) < TRIES:
            tried[state] = self.at(state)
            over, kept = (over, state) if tried[state].mixed.angle <= bound else (state, kept)
            state = (over + kept + 1) // 2
        if last not in tried and all(each.mixed.angle > bound for each in tried.values()):
            tried[last] = self.at(last)
        return list(tried.values())

    def _angle(self, each: Candidate) -> float:
        """Mean over the batches, all of it rounded, forward and back."""
        angles = []
        for n, batch in enumerate(self.batches):
            reference = self.probe.reference(batch)
            angles.append(angle_of(self.probe.gradient(batch, each, n), reference))
        return math.fsum(angles) / len(angles)

    def _cost(self, given: Slot | None) -> float | None:
        if self.price is None:
            return bits_of(given)
        priced = self.price(given.grid) if given is not None and given.rounds else None
        return None if priced is None else priced.total
