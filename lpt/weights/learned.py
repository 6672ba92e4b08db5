"""Scales of weights that train with them: LSQ (arXiv 1902.08153).

A weight v = w / s is rounded to a level q, and is worth q s. Its gradient g = dL/d(q s) passes to w where v lies within
the levels, and to the scale:

    dL/ds = gain sum g (q - v within the levels, else the smallest or the largest one)     gain = 1 / sqrt(n Q)

over the n weights of the scale; Q is the largest level. s counts in steps of the smallest positive level, 1 for
integers, and begins at 2 mean|w| / sqrt(Q).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..formats import Blocks
from ..formats.block_scales import SMALLEST
from .scales import LEARNED, unit
from .trials import stand_in
from .weight import Weight

Optimizer = torch.optim.Optimizer


class LearnedScales:
    """Trains the scales of weights by each optimizer that steps these, as one more parameter of the same group.

    An optimizer does not see them. For each of its groups a *twin* of the same class and options steps them, and
    follows its learning rate and all else.
    """

    def __init__(self) -> None:
        self._twins: WeakKeyDictionary[Optimizer, list[_Twin]] = WeakKeyDictionary()
        self._saved: dict[str, dict[str, Any]] = {}  # what was loaded before there was a twin
        self._due: list[_Twin] = []

    def before(self, optimizer: Optimizer, active: Sequence[Weight]) -> None:
        """Gradients are ready: find those of the scales, and stop those of weights beyond the levels."""
        twins = self._twins.setdefault(optimizer, [])
        while len(twins) < len(optimizer.param_groups):
            twins.append(_Twin(optimizer, optimizer.param_groups[len(twins)]))
        by_id = {id(w.param): w for w in active}
        self._due = twins
        for twin, group in zip(twins, optimizer.param_groups, strict=True):
            own = [by_id[id(p)] for p in group["params"] if id(p) in by_id]
            twin.ready(group, own, self._saved)

    def after(self) -> None:
        """The optimizer has stepped, and so do the twins."""
        for twin in self._due:
            twin.step()
        self._due = []

    def drop(self) -> None:
        """The step has failed."""
        self._due = []

    def state(self) -> dict[str, dict[str, Any]]:
        """What the twins keep of each scale, by the weight's name."""
        found = dict(self._saved)
        for twins in self._twins.values():
            for twin in twins:
                found |= twin.state()
        return found

    def load(self, state: Mapping[str, dict[str, Any]]) -> None:
        """As `state` gave it; a twin that has yet to be made takes its share when it is."""
        self._twins.clear()
        self._saved = {name: _copied(own) for name, own in state.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> LearnedScales:
        other = LearnedScales()  # a copy of a model has an optimizer of its own
        other.load(self.state())
        return other


class _Twin:
    """Steps the scales of the weights of one group."""

    def __init__(self, optimizer: Optimizer, group: dict[str, Any]) -> None:
        self.optimizer = stand_in(optimizer, {**group, "params": []})
        self.kind = type(optimizer)
        self.scales: dict[int, nn.Parameter] = {}  # by id of the weight's parameter
        self.weights: dict[int, Weight] = {}
        self.due: list[Weight] = []

    def ready(self, group: dict[str, Any], weights: Sequence[Weight], saved: dict[str, dict[str, Any]]) -> None:
        own = self.optimizer.param_groups[0]
        own.update({key: value for key, value in group.items() if key != "params"})
        self.due = list(weights)
        for w in weights:
            assert w.upcoming is not None
            step, key = unit(w.plan.format), id(w.param)
            if key not in self.scales or self.scales[key].device != w.upcoming.device:
                p = nn.Parameter(w.upcoming * step)
                self.scales[key], self.weights[key] = p, w
                own["params"] = [*self.scales.values()]
                if w.name in saved:
                    kept = saved.pop(w.name)
                    self.optimizer.state[p] = {k: v.to(p.device) if _sized(v) else v for k, v in kept.items()}
            p = self.scales[key]
            p.data.copy_(w.upcoming * step)
            p.grad = _gradient(w) / step
        for key, p in self.scales.items():
            if key not in {id(w.param) for w in weights}:
                p.grad = None

    def step(self) -> None:
        if not self.due:
            return
        self.kind.step(self.optimizer)
        for w in self.due:
            assert w.upcoming is not None
            scale = self.scales[id(w.param)].detach() / unit(w.plan.format)
            w.upcoming.copy_(scale.clamp(min=SMALLEST))

    def state(self) -> dict[str, dict[str, Any]]:
        kept = self.optimizer.state
        return {self.weights[key].name: _copied(kept[p]) for key, p in self.scales.items() if p in kept}


def _gradient(w: Weight) -> Tensor:
    """Of the scale, in units of the format's own; the weight's gradient is stopped where it lies beyond the levels."""
    grad, format = w.param.grad, w.plan.format
    assert grad is not None and isinstance(format, Blocks)
    if grad.is_sparse:
        raise ValueError(
            f"the gradient of {w.name!r} is sparse, and scaling={LEARNED} works on dense ones: make the embedding with "
            "sparse=False, or leave its weight in full precision with skip="
        )
    g, master, quantized = (w.channels.view(t) for t in (grad, w.master, w.quantized))
    scale = format.spread(w.scale, master).to(master.dtype)
    v, q = master / scale, quantized.to(master.dtype) / scale
    way = torch.where(v < format.low, format.low, torch.where(v > format.high, format.high, q - v))
    gain = (format.summed(torch.ones_like(v)) * (format.high / unit(format))).rsqrt()
    found = format.summed(g * way) * gain
    g.mul_((v >= format.low) & (v <= format.high))
    return found.to(w.scale.dtype)


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in state.items()}


def _sized(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0
