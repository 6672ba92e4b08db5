"""What each slot of each product costs: the gradient with this one operand rounded and all else in full precision.

The loss of a part is the square of relative error, |g - r|^2 / |r|^2 with r the gradient in full precision. Errors of
many parts that point in directions of their own add up in it, where angles do not; a small angle is the square root of
such a sum, in radians. That they do add up is an assumption, so that a mixture is measured as a whole in the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..dataflow.slots import SLOTS
from .candidates import Candidate
from .probe import Probe
from .sites import LOCAL


@dataclass(frozen=True)
class Parts:
    """Of one candidate: `loss[product][slot]`, for those of a product's slots that round.

    `size`: multiply-adds of each product.
    """

    loss: dict[str, dict[str, float]]
    size: dict[str, float]

    def angle(self, product: str, slot: str) -> float | None:
        """About the angle, in degrees, by which this part alone turns the gradient; None where it does not round."""
        loss = self.loss.get(product, {}).get(slot)
        return None if loss is None else math.degrees(math.atan(math.sqrt(loss)))


def parts(probe: Probe, batches: Sequence[Any], candidates: Sequence[Candidate]) -> dict[str, Parts]:
    """By candidate's name: means over the batches.

    Slots of the weight gradient are local and need no pass; those of the input gradient one back through the graph of
    the batch, those of the forward product one of its own: 4 passes for each product.

    Args:
        probe: entered, with these candidates.
    """
    assert probe.sites is not None
    sums: dict[str, dict[tuple[str, str], float]] = {each.name: {} for each in candidates}
    size: dict[str, float] = {}
    for n, batch in enumerate(batches):
        reference = probe.reference(batch)
        whole = sum(float(r.double().square().sum()) for r in reference)
        size = {name: size.get(name, 0.0) + own for name, own in probe.sites.sizes().items()}
        for each in candidates:
            for product in probe.sites.sites:
                for slot, given in probe.sites.slots(each, product).items():
                    if given.rounds or given.source != "hp":
                        loss = _loss(probe, batch, reference, each, product, slot, n) / whole
                        own = sums[each.name]
                        own[product, slot] = own.get((product, slot), 0.0) + loss / len(batches)
    found = {}
    for name, own in sums.items():
        by_product: dict[str, dict[str, float]] = {}
        for (product, slot), loss in own.items():
            by_product.setdefault(product, {})[slot] = loss
        found[name] = Parts(by_product, {name: s / len(batches) for name, s in size.items()})
    return found


def _loss(
    probe: Probe, batch: Any, reference: Sequence[Tensor], each: Candidate, product: str, slot: str, draw: int
) -> float:
    """Squared length of the change of the gradient."""
    assert probe.sites is not None
    choices: Mapping[str, Any] = {product: (each, (slot,))}
    if slot in LOCAL:
        has_weight = any(record.weight is not None for record in probe.sites.sites[product].records)
        if has_weight:
            return sum(float(c.double().square().sum()) for c in probe.sites.changes(choices, draw).values())
    rounding = lambda: probe.sites.rounding(choices, draw)  # type: ignore[union-attr]  # noqa: E731
    g = probe.passing_back(rounding) if slot not in ("x", "w") else probe.passing(batch, rounding)
    return sum(float((a - b).double().square().sum()) for a, b in zip(g, reference, strict=True))


def table(parts: Parts) -> list[list[float | None]]:
    """Angles [product][slot], in the order of the products and of `SLOTS`."""
    return [[parts.angle(product, slot) for slot in SLOTS] for product in parts.size]


def total(losses: Sequence[float]) -> float:
    """The angle, in degrees, of a sum of losses."""
    return math.degrees(math.atan(math.sqrt(math.fsum(losses))))


def loss_of(angle: float) -> float:
    """The loss that `total` makes this angle of; from 90 degrees upward it is without bound."""
    return math.tan(math.radians(angle)) ** 2 if angle < 90 else math.inf
