"""A remedy on the learning rate: the weights' own follows the share of them that change at a step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .remedy import Moment, Remedy, State, check_positive, check_share


class TransitionRate(Remedy):
    """The share of weights that change at a step is held near a target, by the quantized weights' learning rate.

    With the moving average k of the share, for each weight tensor: u <- max(0, u + gain (target - k)); its rate is u
    times the group's largest so far, and target = share sqrt(bits), along half a cosine to 0. All other parameters
    have the rate of the schedule.

    Args:
        share: of the target (the authors: about 0.005).
        gain: how fast u moves; it starts at 1.
        decay: of the average k.
    """

    source = "Lee et al. (arXiv 2404.19248), transition-rate scheduling"
    certainty = "paper read"
    follows = True

    def __init__(self, share: float = 0.005, gain: float = 1.0, decay: float = 0.99) -> None:
        check_positive("share", share)
        check_positive("gain", gain)
        check_share("decay", decay)
        self.share, self.gain, self.decay = share, gain, decay
        self._rates: list[tuple[dict[str, Any], Any]] = []  # groups, and the rates that they shall have again
        self._others: list[tuple[torch.nn.Parameter, Tensor, float]] = []
        self._masters: list[Tensor] = []
        self._levels: list[Tensor] = []

    def memory(self, master: Tensor) -> State:
        nothing = torch.zeros((), device=master.device)
        return {"rate": nothing + 1, "peak": nothing, "changing": nothing.clone()}

    def before_step(self, moment: Moment) -> None:
        """Let the optimizer step at the largest rate so far: a small one would be lost in float32's last bits."""
        self._masters = [w.master.clone() for w in moment.weights]
        for group, own in moment.groups():
            lr, ids = float(group["lr"]), {id(w.param) for w in own}
            for w in own:
                w.memory["peak"].clamp_(min=lr)
            peak = max(w.memory["peak"].item() for w in own)
            if peak > lr:
                rest = [p for p in group["params"] if id(p) not in ids and p.grad is not None]
                self._others += [(p, p.detach().clone(), lr / peak) for p in rest]
                self._rates.append((group, group["lr"]))
                group["lr"] = torch.full_like(group["lr"], peak) if isinstance(group["lr"], Tensor) else peak

    def after_step(self, moment: Moment) -> None:
        for p, before, factor in self._others:
            p.data.copy_(before + factor * (p.data - before))
        for w, master in zip(moment.weights, self._masters, strict=True):
            w.master.copy_(master + w.memory["rate"] * (w.master - master))
        self._levels = [w.param.detach().clone() for w in moment.weights]

    def chosen(self, moment: Moment) -> None:
        falling = (1 + math.cos(math.pi * moment.share)) / 2
        for w, level in zip(moment.weights, self._levels, strict=True):
            flipped = (w.param.detach() != level).float().mean()
            changing = w.memory["changing"]
            changing.copy_(self.decay * changing + (1 - self.decay) * flipped)
            target = self.share * math.sqrt(w.plan.format.bits) * falling
            w.memory["rate"].add_(self.gain * (target - changing)).clamp_(min=0)

    def end(self) -> None:
        for group, lr in self._rates:
            group["lr"] = lr
        self._rates, self._others, self._masters, self._levels = [], [], [], []
