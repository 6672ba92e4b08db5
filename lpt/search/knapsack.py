"""One option out of each group, so that neither the sum of their costs nor that of their losses could be less without
the other being more: the multiple-choice knapsack, solved for all budgets at once.

Group by group, every state so far is extended by every option, and what another state beats in both sums is dropped
(Nemhauser & Ullmann 1969). That is exact while no more than `LIMIT` states are left; beyond, the range of costs is cut
into `LIMIT` parts, and of those that lie in one part the state of the least loss stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LIMIT = 5000
Array = NDArray[np.float64]
Option = tuple[float, float]  # cost, loss; neither below 0


@dataclass(frozen=True)
class Front:
    """What nothing beats, by rising cost and so by falling loss.

    Args:
        costs, losses: [states].
        choices: [states, groups], the option that is taken.
    """

    costs: Array
    losses: Array
    choices: NDArray[np.int64]

    def cheapest(self, loss: float) -> int | None:
        """The state of the least cost whose loss is at most this; None if there is none."""
        (fits,) = np.nonzero(self.losses <= loss)
        return int(fits[0]) if len(fits) else None

    def best(self, cost: float) -> int | None:
        """The state of the least loss whose cost is at most this; None if there is none."""
        (fits,) = np.nonzero(self.costs <= cost)
        return int(fits[-1]) if len(fits) else None


def front(groups: Sequence[Sequence[Option]], limit: int = LIMIT) -> Front:
    """The front of all choices of one option from each group.

    Raises:
        ValueError: a group without options.
    """
    if not all(groups):
        raise ValueError("a group has no option: there is nothing to choose")
    costs, losses = np.zeros(1), np.zeros(1)
    steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # of each group: state before, and option
    for group in groups:
        options = np.array(group, dtype=float)
        every = (costs[:, None] + options[:, 0]).ravel(), (losses[:, None] + options[:, 1]).ravel()
        kept = _unbeaten(*every, limit)
        costs, losses = every[0][kept], every[1][kept]
        steps.append(np.divmod(kept, len(options)))
    choices = np.empty((len(costs), len(groups)), dtype=np.int64)
    at = np.arange(len(costs))
    for g in reversed(range(len(groups))):
        before, option = steps[g]
        choices[:, g] = option[at]
        at = before[at]
    return Front(costs, losses, choices)


def _unbeaten(costs: Array, losses: Array, limit: int) -> NDArray[np.int64]:
    """Indices by rising cost: each has less loss than all before it."""
    order = np.lexsort((losses, costs))
    least = np.minimum.accumulate(losses[order])
    kept = order[np.append(True, least[1:] < least[:-1])]
    if len(kept) <= limit:
        return kept
    ends = costs[kept[[0, -1]]]
    part = ((costs[kept] - ends[0]) / (ends[1] - ends[0]) * limit).astype(int)
    return kept[np.append(part[1:] != part[:-1], True)]  # the last of a part, which has the least loss in it
