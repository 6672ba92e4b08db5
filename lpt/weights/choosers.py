"""Rules for the next level that remember: averages, reversals, waiting. Each is a `Chooser` and so a remedy, too.

Besides those of others, four of our own: `RateHysteresis`, `DriftHysteresis`, `Debounce`, `Settling`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .remedy import Chooser, Moment, State, check_share, cosine, keep
from .rules import Hysteresis, Nearest, Stochastic, between


class QEma(Chooser):
    """Of the two levels around the master, the one that its moving average is nearer to.

    With the middle m of the two: the one further from zero where sgn(w) average >= |m|, at the scale of today.

    Args:
        decay: what stays of the average at each step (the authors: 0.9972 to 0.999, by size of the model).
        start: steps that are rounded to nearest before.
    """

    source = "TetraJet (arXiv 2502.20853), Q-EMA"
    certainty = "code read"

    def __init__(self, decay: float = 0.998, start: int = 10) -> None:
        check_share("decay", decay)
        self.decay, self.start = decay, start

    def begin(self, master: Tensor, quantized: Tensor) -> State:
        return {"average": master.clone(), "on": torch.zeros((), dtype=torch.bool, device=master.device)}

    def dial(self, state: State, moment: Moment, rate: float) -> None:
        state["on"].fill_(moment.step >= self.start)

    def __call__(self, master: Tensor, previous: Tensor, scale: Tensor, key: Tensor | None, *state: Tensor) -> Tensor:
        old, on = state
        average = old * self.decay + master * (1 - self.decay)
        old.copy_(average)
        low, high = self.format.floor(master, scale=scale), self.format.ceil(master, scale=scale)
        middle = (low + high) / 2
        above = torch.where(master >= 0, average >= middle, average > middle)
        return torch.where(on, torch.where(above, high, low), self.format.round(master, scale=scale))


class Freezing(Chooser):
    """A weight whose direction reverses too often is frozen for good, at the level nearest to its average.

    A reversal is a change of the quantized weight opposite to its last one; f <- m reversal + (1 - m) f; frozen where
    f > threshold. A frozen master stays at its level, too (in the original it drifts, unseen, under a learned scale).

    Args:
        momentum: m, of f and of the average of the quantized weight.
        first, last: the threshold, along a cosine from the one to the other.
        after: share of the training before which nothing is frozen.
    """

    source = "Nagel et al. 2022 (arXiv 2203.11086), iterative freezing"
    certainty = "code read"
    follows = True
    over = (Nearest, Stochastic, Hysteresis)

    def __init__(self, momentum: float = 0.001, first: float = 0.1, last: float = 0.01, after: float = 0.25) -> None:
        for name, value in (("momentum", momentum), ("first", first), ("last", last), ("after", after)):
            check_share(name, value)
        self.momentum, self.first, self.last, self.after = momentum, first, last, after

    def begin(self, master: Tensor, quantized: Tensor) -> State:
        return {
            "direction": torch.zeros_like(master, dtype=torch.int8),
            "frequency": torch.zeros_like(master),
            "average": quantized.to(master.dtype, copy=True),
            "frozen": torch.zeros_like(master, dtype=torch.bool),
            "threshold": torch.full((), math.inf, device=master.device),
        }

    def dial(self, state: State, moment: Moment, rate: float) -> None:
        share = moment.share
        state["threshold"].fill_(math.inf if share < self.after else cosine(share, self.first, self.last, self.after))

    def hold(self, master: Tensor, *state: Tensor) -> Tensor:
        _, _, average, frozen, _ = state
        return torch.where(frozen, average, master)

    def __call__(self, master: Tensor, previous: Tensor, scale: Tensor, key: Tensor | None, *state: Tensor) -> Tensor:
        direction, frequency, average, frozen, threshold = state
        level = self.format.round(average, scale=scale)
        new = torch.where(frozen, level, self.inner(master, previous, scale, key))
        change = (new > previous).to(torch.int8) - (new < previous).to(torch.int8)
        reversal = (direction * change < 0).to(frequency.dtype)
        often = reversal * self.momentum + frequency * (1 - self.momentum)
        freezes = (often > threshold) & ~frozen
        moving = new * self.momentum + average * (1 - self.momentum)
        average = torch.where(frozen, average, torch.where(freezes, level, moving))
        keep(state, (torch.where(change == 0, direction, change), often, average, frozen | freezes))
        return new


class RateHysteresis(Chooser):
    """Hysteresis whose width is the learning rate's share of its largest so far.

    As wide as the paper's while the rate is at its height, rounding to nearest once the rate has gone to zero.
    """

    source = "ours"
    certainty = "own"

    def begin(self, master: Tensor, quantized: Tensor) -> State:
        return {"width": torch.ones((), device=master.device), "peak": torch.zeros((), device=master.device)}

    def dial(self, state: State, moment: Moment, rate: float) -> None:
        state["peak"].clamp_(min=rate)
        state["width"].copy_(rate / state["peak"].clamp(min=torch.finfo(torch.float32).tiny))

    def __call__(self, master: Tensor, previous: Tensor, scale: Tensor, key: Tensor | None, *state: Tensor) -> Tensor:
        width, _ = state
        low, high = self.format.floor(master, scale=scale), self.format.ceil(master, scale=scale)
        return between(master, previous, low, high, width)


class DriftHysteresis(Chooser):
    """Hysteresis whose width is, for each weight, the part of its motion that leads nowhere.

    With moving averages of the master's moves d and of their magnitudes: width = 1 - |mean d| / mean |d|. A weight that
    travels is rounded to nearest, one that dithers has the paper's hysteresis.

    Args:
        decay: of the averages.
    """

    source = "ours"
    certainty = "own"

    def __init__(self, decay: float = 0.99) -> None:
        check_share("decay", decay)
        self.decay = decay

    def begin(self, master: Tensor, quantized: Tensor) -> State:
        return {"before": master.clone(), "drift": torch.zeros_like(master), "travel": torch.zeros_like(master)}

    def __call__(self, master: Tensor, previous: Tensor, scale: Tensor, key: Tensor | None, *state: Tensor) -> Tensor:
        before, drift, travel = state
        move = master - before
        drift = drift * self.decay + move * (1 - self.decay)
        travel = travel * self.decay + move.abs() * (1 - self.decay)
        width = torch.where(travel > 0, 1 - drift.abs() / travel, 1.0).clamp(0, 1)
        low, high = self.format.floor(master, scale=scale), self.format.ceil(master, scale=scale)
        new = between(master, previous, low, high, width)
        # `travel` is never below 0. But torch's compiler fails where what writes `before` has to come after `travel`,
        # which read it, and does not read `travel` itself.
        keep(state, (torch.where(travel < 0, before, master), drift, travel))
        return new


class Debounce(Chooser):
    """A weight takes the level nearest to its master once it has had another one for `patience` steps in a row.

    One byte a weight. At rest every weight is at the level nearest to its master.

    Args:
        patience: steps, 1 (rounding to nearest) to 255.
    """

    source = "ours"
    certainty = "own"

    def __init__(self, patience: int = 20) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or not 1 <= patience <= 255:
            raise ValueError(f"patience={patience!r}: give a whole number of steps from 1 to 255")
        self.patience = patience

    def begin(self, master: Tensor, quantized: Tensor) -> State:
        return {"waited": torch.zeros_like(master, dtype=torch.uint8)}

    def __call__(self, master: Tensor, previous: Tensor, scale: Tensor, key: Tensor | None, *state: Tensor) -> Tensor:
        (waited,) = state
        wanted = self.format.round(master, scale=scale)
        kept = self.format.round(previous.to(master.dtype), scale=scale)  # on the grid of today
        waiting = torch.where(wanted == kept, 0, waited.to(torch.int32) + 1)
        moves = waiting >= self.patience
        waited.copy_(torch.where(moves, 0, waiting).to(torch.uint8))
        return torch.where(moves, wanted, kept)


class Settling(Chooser):
    """In the last part of the training the level nearest to a mean of the master, which stands in for a falling rate.

    From step n = 1 of that part on: mean <- mean + max(1 / n, 1 - rate / largest rate) (master - mean). At a rate that
    stays, the mean is of all these steps, and weights flicker ever less; where the rate is down it is the master.

    Args:
        after: share of the training before which the scheme of the weights, nearest or hysteresis, chooses the level.
    """

    source = "ours"
    certainty = "own"
    follows = True
    over = (Nearest, Stochastic, Hysteresis)

    def __init__(self, after: float = 0.75) -> None:
        check_share("after", after)
        self.after = after

    def begin(self, master: Tensor, quantized: Tensor) -> State:
        return {
            "mean": master.clone(),
            "share": torch.ones((), device=master.device),
            "steps": torch.zeros((), device=master.device),
            "peak": torch.zeros((), device=master.device),
        }

    def dial(self, state: State, moment: Moment, rate: float) -> None:
        state["peak"].clamp_(min=rate)
        state["steps"].add_(moment.share >= self.after)
        fallen = 1 - rate / state["peak"].clamp(min=torch.finfo(torch.float32).tiny)
        state["share"].copy_(torch.maximum(1 / state["steps"].clamp(min=1), fallen))

    def __call__(self, master: Tensor, previous: Tensor, scale: Tensor, key: Tensor | None, *state: Tensor) -> Tensor:
        mean, share, steps, _ = state
        mean = torch.where((steps > 0) & (share < 1), mean + (master - mean) * share, master)
        settled = self.format.round(mean, scale=scale)
        new = torch.where(steps > 0, settled, self.inner(master, previous, scale, key))
        keep(state, (mean,))
        return new
