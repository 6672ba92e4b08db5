"""What each slot of each product costs: the gradient with this one operand rounded and all else in full precision.

The loss of a part is the square of the tangent of the angle by which it turns the gradient: what stands at right angles
to the gradient in full precision, in units of what lies along it. Such errors of many parts, each in a direction of its
own, add up in it, where angles do not; a small angle is the square root of such a sum, in radians. That they do add up
is an assumption, so that a mixture is measured as a whole in the end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .candidates import Candidate
from .edges import sum_of
from .probe import Probe, angle_of
from .sites import LOCAL

MOST = 1e6  # a loss from some 89.9 degrees upward


@dataclass(frozen=True)
class Parts:
    """Of one candidate: `angles[product][slot]`, in degrees, for those of a product's slots that round.

    `size[product][slot]`: multiply-adds that read it; without those that none reads.
    """

    angles: dict[str, dict[str, float]]
    size: dict[str, dict[str, float]]

    def angle(self, product: str, slot: str) -> float | None:
        """By which this part alone turns the gradient; None where it does not round."""
        return self.angles.get(product, {}).get(slot)

    def loss(self, product: str, slot: str) -> float:
        """What the angle adds to a sum of losses; 0 where nothing is rounded."""
        return min(loss_of(self.angle(product, slot) or 0.0), MOST)


def parts(probe: Probe, batches: Sequence[Any], candidates: Sequence[Candidate]) -> dict[str, Parts]:
    """By candidate's name: means over the batches.

    Slots of the weight gradient are local and need no pass; those of the input gradient one back through the graph of
    the batch, those of the forward product one of its own: 4 passes for each product.

    Args:
        probe: entered, with these candidates.
    """
    assert probe.sites is not None
    found: dict[str, dict[str, dict[str, float]]] = {each.name: {} for each in candidates}
    size: dict[str, dict[str, float]] = {name: {} for name in probe.sites.sites}
    for n, batch in enumerate(batches):
        reference = probe.reference(batch)
        for name, own in probe.sites.sizes().items():
            size[name] |= {slot: size[name].get(slot, 0.0) + of / len(batches) for slot, of in own.items()}
        for each in candidates:
            for product in probe.sites.sites:
                for slot, given in probe.sites.slots(each, product).items():
                    if given.rounds or given.source != "hp":
                        angle = angle_of(_gradient(probe, batch, reference, each, product, slot, n), reference)
                        own = found[each.name].setdefault(product, {})
                        own[slot] = own.get(slot, 0.0) + angle / len(batches)
    return {name: Parts(angles, size) for name, angles in found.items()}


def _gradient(
    probe: Probe, batch: Any, reference: list[Tensor], each: Candidate, product: str, slot: str, draw: int
) -> list[Tensor]:
    """The gradient with this part rounded."""
    assert probe.sites is not None
    choices: Mapping[str, Any] = {product: (each, (slot,))}
    if slot in LOCAL:
        has_weight = any(record.weight is not None for record in probe.sites.sites[product].records)
        if has_weight:
            return sum_of(reference, list(probe.weights), probe.sites.changes(choices, draw))
    rounding = lambda: probe.sites.rounding(choices, draw)  # type: ignore[union-attr]  # noqa: E731
    return probe.passing_back(rounding) if slot not in ("x", "w") else probe.passing(batch, rounding)


def total(losses: Sequence[float]) -> float:
    """The angle, in degrees, of a sum of losses."""
    return math.degrees(math.atan(math.sqrt(math.fsum(losses))))


def loss_of(angle: float) -> float:
    """The loss that `total` makes this angle of; from 90 degrees upward it is without bound."""
    return math.tan(math.radians(angle)) ** 2 if angle < 90 else math.inf
