"""What a remedy for flickering weights is: something done around an optimizer's step, or another rule for the level.

A weight whose master stands near a threshold flickers between two levels. Remedies work in one of three places: before
the step, on the gradients; after it, on the masters; or on the choice of the next level. `Remedy` has a method for
each; `Chooser` is one that makes the choice, with a state of its own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .rules import Nearest, Scheme
from .weight import Weight

State = dict[str, Tensor]


@dataclass
class Moment:
    """One step of an optimizer, as a remedy sees it.

    Attributes:
        optimizer: about to step, or it has stepped.
        weights: those that it changes.
        step: of how many this is the last, counted from 1, over all optimizers.
        steps: of the whole training, if that is known.
    """

    optimizer: torch.optim.Optimizer
    weights: Sequence[Weight]
    step: int
    steps: int | None

    @property
    def share(self) -> float:
        """How much of the training was done before this step, 0 to 1.

        Raises:
            ValueError: nobody has said how long it is.
        """
        if self.steps is None:
            raise ValueError(
                "this remedy follows the training's progress: give steps=, the optimizer steps of all of it"
            )
        return min(1.0, (self.step - 1) / max(1, self.steps))

    def dial(self, scheme: Scheme) -> None:
        """Before the step: set what follows the training in the state of a scheme that has one."""
        if isinstance(scheme, Chooser):
            for group, own in self.groups():
                for w in own:
                    scheme.dial(w.memory, self, float(group.get("lr", 1.0)))

    def groups(self) -> list[tuple[dict[str, Any], list[Weight]]]:
        """The optimizer's parameter groups that hold any of the weights, with those."""
        by_id = {id(w.param): w for w in self.weights}
        found = [(g, [by_id[id(p)] for p in g["params"] if id(p) in by_id]) for g in self.optimizer.param_groups]
        return [(group, own) for group, own in found if own]


class Remedy:
    """Does nothing; a remedy overrides what it needs. All runs without gradients, for every step of an optimizer.

    Everything that later steps depend on is kept in tensors of each weight (`memory`), which are saved with it. So a
    remedy computes the same on all ranks, where gradients are the same.

    Attributes:
        source: paper, and whose rule it is.
        certainty: how the rule is known: "code read", "paper read", "own".
        follows: whether it follows the training's progress, so that `steps` must be known.
    """

    source = ""
    certainty = ""
    follows = False

    def scheme(self, scheme: Scheme) -> Scheme:
        """The scheme to take in place of this one.

        Raises:
            ValueError: the remedy does not go with it.
        """
        return scheme

    def memory(self, master: Tensor) -> State:
        """What is kept of a weight, as it begins: tensors of the master's shape, or of none."""
        return {}

    def before_step(self, moment: Moment) -> None:
        """Masters are in the parameters, and gradients are ready."""

    def after_step(self, moment: Moment) -> None:
        """The optimizer has stepped: masters are new, the parameters hold the quantized weights of before."""

    def chosen(self, moment: Moment) -> None:
        """The parameters hold their next quantized weights."""

    def end(self) -> None:
        """The step is over, or has failed: let go of what was kept for it."""


class Chooser(Remedy):
    """A remedy that chooses the next level itself, by a state: `scheme(over)` is it as a scheme.

    As a scheme it is called with the tensors of `begin` behind the key, in their order, and changes them in place, at
    its end (`keep`): what reads a tensor that it has changed is not compiled. For it may be compiled, so that numbers
    that change from step to step stand in the state as well: `dial` sets them.
    """

    over: tuple[type, ...] = (Nearest,)  # the schemes whose place it can take
    inner: Scheme
    format: Any
    stochastic: bool

    def scheme(self, scheme: Scheme) -> Scheme:
        if not isinstance(scheme, self.over):
            kinds = " or ".join(kind.__name__.lower() for kind in self.over)
            raise ValueError(
                f"{type(self).__name__} chooses the next level, and so does {type(scheme).__name__}, the scheme of "
                f"these weights: give it weights of the scheme {kinds}, such as weights={scheme.format.name}"
            )
        own = copy.copy(self)
        own.inner, own.format, own.stochastic = scheme, scheme.format, scheme.stochastic
        return own

    def begin(self, master: Tensor, quantized: Tensor) -> State:
        """The state of a weight as it begins: tensors of its shape, or of none."""
        return {}

    def dial(self, state: State, moment: Moment, rate: float) -> None:
        """Before each step: set what follows the training; `rate` is the learning rate of this weight's group."""

    def hold(self, master: Tensor, *state: Tensor) -> Tensor:
        """After each step, before the scale is found: the masters, those put back that shall not have moved."""
        return master

    def __call__(self, master: Tensor, previous: Tensor, scale: Tensor, key: Tensor | None, *state: Tensor) -> Tensor:
        raise NotImplementedError


def keep(state: Sequence[Tensor], after: Sequence[Tensor]) -> None:
    """Write the first tensors of a state."""
    for old, new in zip(state, after, strict=False):
        old.copy_(new)


def over(remedy: Remedy | None, scheme: Scheme) -> Scheme:
    """The scheme of weights that have this remedy.

    Raises:
        ValueError: they do not go together.
    """
    if remedy is None:
        return scheme
    if not isinstance(remedy, Remedy):
        raise ValueError(f"remedy={remedy!r} is no lpt.weights.Remedy: make one, for example lpt.weights.QEma()")
    if scheme.format.name == "fp32":
        raise ValueError(
            f"{type(remedy).__name__} is a remedy for quantized weights, and these are in fp32: choose weights=log4, "
            "say, or remedy=none"
        )
    return remedy.scheme(scheme)


def told(thing: object) -> str:
    """A remedy or a chooser with its settings: equal texts compute alike."""
    plain = {k: v for k, v in vars(thing).items() if isinstance(v, (bool, int, float, str)) and not k.startswith("_")}
    return f"{type(thing).__name__}({', '.join(f'{k}={v}' for k, v in plain.items())})"


def cosine(share: float, first: float, last: float, after: float) -> float:
    """From `first`, where `share` is `after`, to `last`, where it is 1, along half a cosine."""
    progress = (share - after) / (1 - after)
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


def check_share(name: str, value: float, below: float = 1.0) -> None:
    """Refuse what is no share of a training, from 0 up to but not including 1.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < below:
        raise ValueError(f"{name}={value!r}: give a number from 0 up to but not including {below:g}")


def check_positive(name: str, value: float, whole: bool = False) -> None:
    """Refuse what is no positive number, or no whole one.

    Raises:
        ValueError: it is none.
    """
    kind = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: give a {'whole ' if whole else ''}number above 0")
