"""Remedies that first measure which weights oscillate: how far the quantized weight travels for the master's way.

    R = sum |Q_t - Q_(t-1)| / sum |w_t - w_(t-1)|        over some steps; 0 where the master does not move

A weight that travels has R near 1; one that dithers about a threshold makes a whole step of the grid for little.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .gradients import gradient
from .remedy import Moment, Remedy, State, check_positive, check_share
from .trials import momenta
from .weight import Weight


class Ratio(Remedy):
    """Measures R over the first `track` of every `every` steps, once `after` of the training is over."""

    follows = True

    def __init__(self, every: int, track: int, after: float) -> None:
        check_positive("every", every, whole=True)
        check_positive("track", track, whole=True)
        check_share("after", after)
        if track > every:
            raise ValueError(f"track={track} steps do not fit into every={every}: give fewer")
        self.every, self.track, self.after = every, track, after
        self._masters: list[Tensor] = []
        self._levels: list[Tensor] = []

    def memory(self, master: Tensor) -> State:
        return {"moved": torch.zeros_like(master), "jumped": torch.zeros_like(master)}

    def phase(self, moment: Moment) -> int:
        """Which of the `every` steps this is, from 1; 0 while nothing is measured yet."""
        begin = 0 if moment.steps is None or not self.after else -(-round(self.after * moment.steps) // self.every)
        step = moment.step - begin * self.every
        return 0 if step < 1 else (step - 1) % self.every + 1

    def before_step(self, moment: Moment) -> None:
        if self.after:
            _ = moment.share  # raises if nobody has said how long the training is
        phase = self.phase(moment)
        if phase == 1:
            for w in moment.weights:
                w.memory["moved"].zero_()
                w.memory["jumped"].zero_()
        self._masters = [w.master.clone() for w in moment.weights] if 1 <= phase <= self.track else []

    def after_step(self, moment: Moment) -> None:
        self._levels = [w.param.detach().clone() for w in moment.weights] if self._masters else []

    def chosen(self, moment: Moment) -> None:
        for w, master, level in zip(moment.weights, self._masters, self._levels, strict=False):
            w.memory["moved"].add_((w.master - master).abs_())
            w.memory["jumped"].add_((w.param.detach() - level).abs_())
        if self.phase(moment) == self.track:
            for w in moment.weights:
                moved = w.memory["moved"]
                self.measured(w, torch.where(moved > 0, w.memory["jumped"] / moved, 0.0))

    def measured(self, w: Weight, ratio: Tensor) -> None:
        raise NotImplementedError

    def end(self) -> None:
        self._masters, self._levels = [], []


class OsciReset(Ratio):
    """Every `every` steps, after `track` of them: a master with R >= threshold is set to its quantized weight.

    Args:
        every, track: optimizer steps (the authors: 200 and 50).
        threshold: of R (the authors: 8).
        after: share of the training before which nothing is reset (the authors: 0.64, for 70 million weights).
    """

    source = "TetraJet-v2 (arXiv 2510.27527), OsciReset"
    certainty = "code read"

    def __init__(self, every: int = 200, track: int = 50, threshold: float = 8.0, after: float = 0.64) -> None:
        super().__init__(every, track, after)
        check_positive("threshold", threshold)
        self.threshold = threshold

    def measured(self, w: Weight, ratio: Tensor) -> None:
        w.master.copy_(torch.where(ratio >= self.threshold, w.param.detach().to(w.master.dtype), w.master))


class QRamping(Ratio):
    """A weight that oscillates is stepped every N steps, by its mean gradient and N times the learning rate.

    N = min(most, floor(R / threshold) grow + 1), measured over `track` of every `every` steps, in which N is 1. Between
    two of its steps a weight's master and what the optimizer keeps of it stay. (The authors measure on trial steps that
    they take back afterwards; here they are steps of the training.)

    Args:
        every, track: optimizer steps (the authors: an epoch, and 30).
        threshold, grow: of N (the authors: 16 and 5).
        most: the largest N.
    """

    source = "TetraJet (arXiv 2502.20853), Q-Ramping"
    certainty = "paper read"

    def __init__(
        self, every: int = 1000, track: int = 30, threshold: float = 16.0, grow: int = 5, most: int = 25
    ) -> None:
        super().__init__(every, track, 0.0)
        check_positive("threshold", threshold)
        check_positive("grow", grow, whole=True)
        check_positive("most", most, whole=True)
        if most > 254 or track == every:
            raise ValueError(f"most={most}, track={track}: give at most 254, and fewer steps than every={every}")
        self.threshold, self.grow, self.most = threshold, grow, most
        self._kept: list[tuple[Tensor, Tensor, dict[str, Tensor]]] = []

    follows = False

    def memory(self, master: Tensor) -> State:
        small = torch.zeros_like(master, dtype=torch.uint8)
        return {**super().memory(master), "every": small + 1, "waited": small, "sum": torch.zeros_like(master)}

    def before_step(self, moment: Moment) -> None:
        super().before_step(moment)
        self._kept = []
        for w in moment.weights:
            every, waited, total = w.memory["every"], w.memory["waited"], w.memory["sum"]
            if self.phase(moment) == self.every:  # what has been gathered is spent
                every.copy_(waited + 1)
            if self.phase(moment) == 1:
                every.fill_(1)
            waited.add_(1)
            due = waited >= every
            grad = gradient(w)
            total.add_(grad)
            grad.copy_(torch.where(due, total / waited, grad))
            state = moment.optimizer.state.get(w.param, {})
            held = {name: value.clone() for name, value in momenta(state, w.param)}
            self._kept.append((due, w.master.clone(), held))

    def after_step(self, moment: Moment) -> None:
        super().after_step(moment)
        for w, (due, master, held) in zip(moment.weights, self._kept, strict=True):
            waited = w.memory["waited"]
            times = torch.where(waited > 1, waited, 1)
            far = torch.where(waited > 1, master + times * (w.master - master), w.master)
            w.master.copy_(torch.where(due, far, master))
            for name, value in momenta(moment.optimizer.state.get(w.param, {}), w.param):
                if name in held:
                    value.copy_(torch.where(due, value, held[name]))
            waited.masked_fill_(due, 0)
            w.memory["sum"].masked_fill_(due, 0)

    def measured(self, w: Weight, ratio: Tensor) -> None:
        ramp = (ratio / self.threshold).floor_().mul_(self.grow).add_(1).clamp_(max=self.most)
        w.memory["every"].copy_(ramp.to(torch.uint8))

    def end(self) -> None:
        super().end()
        self._kept = []
