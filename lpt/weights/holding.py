"""The quantized weights of a model at rest: by name, counted, saved, and what others do to them between two steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from . import state
from .learned import LearnedScales
from .members import Members
from .optimizers import Besides
from .parameters import why_not
from .step import Seen
from .weight import Weight

Optimizer = torch.optim.Optimizer


class Holding:
    """What `QuantizedWeights` is while no optimizer steps.

    Attributes:
        model: the model.
        swapped: whether its parameters hold masters at the moment.
        calls: steps so far.
        made: how its weights are quantized, for the state.
        shows: whether parameters hold averages at the moment, as they should.
    """

    model: nn.Module
    swapped: bool
    calls: int
    made: dict[str, Any]
    shows: bool = False
    _members: Members
    _besides: Besides
    _learned: LearnedScales | None
    _admitted: WeakKeyDictionary[Optimizer, int]

    # -- by name ------------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """Of the quantized weights, in the model's order."""
        return [w.name for w in self._members.weights]

    @property
    def params(self) -> dict[str, nn.Parameter]:
        """The parameters that hold them."""
        return {w.name: w.param for w in self._members.weights}

    @property
    def masters(self) -> dict[str, Tensor]:
        """Their full-precision values, float32 or float64."""
        return {w.name: w.master for w in self._members.weights}

    @property
    def scales(self) -> dict[str, Tensor]:
        """int32 exponents of their grids; they broadcast against `by_channel(name, parameter)`. Or blocks' `scales`."""
        return {w.name: w.scale for w in self._members.weights}

    @property
    def left_out(self) -> dict[str, str]:
        return why_not(self.model)

    def by_channel(self, name: str, values: Tensor) -> Tensor:
        """A tensor of this weight's shape so that its scale broadcasts against it (see `Channels`)."""
        return self.seen(name).view(values)

    def seen(self, name: str) -> Seen:
        """How this weight is seen by its format and scales: a dataclass, `Channels` or `InFeatures`."""
        return next(w for w in self._members.weights if w.name == name).channels

    # -- whose optimizers ---------------------------------------------------------------------------------------------

    def holds(self, optimizer: Optimizer) -> bool:
        """Whether the optimizer steps any of these weights."""
        by_id = self._members.by_id
        return any(id(p) in by_id for group in optimizer.param_groups for p in group["params"])

    def of(self, optimizer: Optimizer) -> list[Weight]:
        """The weights that the optimizer holds."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return [w for w in self._members.weights if id(w.param) in held]

    def admit(self, optimizer: Optimizer) -> None:
        """Refuse an optimizer that these weights cannot be stepped by; its first step would do the same.

        Raises:
            ValueError: it needs a closure, exchanges parameters, or does not fit `decay`, `momentum`, `momentum_use`.
        """
        if self._admitted.get(optimizer) != len(optimizer.param_groups):
            self._besides.admit(optimizer, set(self._members.by_id))
            self._admitted[optimizer] = len(optimizer.param_groups)

    @torch.no_grad()
    def meet(self, optimizer: Optimizer) -> None:
        """An optimizer that holds none of these weights is about to step.

        Raises:
            ValueError: it holds parameters of the model, and that has weights by now that are not quantized.
        """
        self._members.meet(optimizer)

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the model has quantized weights of its own, which have yet to see an optimizer."""
        return {key: value for key, value in self.__dict__.items() if key != "_admitted"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._admitted = WeakKeyDictionary()

    # -- flips --------------------------------------------------------------------------------------------------------

    def flips(self) -> Tensor:
        """int64 [weights, 3]: level flips, regrid flips, and elements times steps, since `reset_flips`.

        A flip is a weight whose quantized value changed at a step: a regrid flip if its scale moved at that step,
        a level flip otherwise. Weights that a step does not change are not counted at it. On the weights' device;
        reading it is the only synchronization.
        """
        weights = self._members.weights
        if not weights:
            return torch.zeros(0, 3, dtype=torch.int64)
        seen = torch.tensor([[w.seen] for w in weights], device=weights[0].flips.device)
        return torch.cat([torch.stack([w.flips.to(seen.device) for w in weights]), seen], 1)

    def reset_flips(self) -> None:
        for w in self._members.weights:
            w.seen = 0
            w.flips.zero_()

    # -- when others have changed the model ---------------------------------------------------------------------------

    @torch.no_grad()
    def follow(self) -> None:
        """Take over now, and not at the next step, what was written into the parameters, and quantize it to nearest."""
        self._members.look()
        for w in self._members.weights:
            w.settle()

    @torch.no_grad()
    def refresh(self) -> None:
        """The model has other weights now: quantize the new ones, to nearest; the others keep their masters."""
        self._members.take()
        self.follow()

    @torch.no_grad()
    def resync(self) -> None:
        """Take the parameters as new masters, all of them, and quantize them to nearest."""
        self._members.look()
        for w in self._members.weights:
            w.begin()
        self.reset_flips()

    @torch.no_grad()
    def remove(self) -> None:
        """Give the parameters their masters back, and let go of the model."""
        self.follow()
        for w in self._members.weights:
            w.param.copy_(w.master)
        self._members.remove()

    def stray(self) -> str:
        """The first weight that holds values on no grid, by its name, as an average of rounded weights does; or ""."""
        if self.swapped or self.shows:
            return ""
        return next((w.name for w in self._members.weights if w.strays()), "")

    @contextmanager
    def averaged(self, averages: Mapping[str, Tensor] | nn.Module, rounded: bool = True) -> Iterator[None]:
        """Within, the model's parameters hold these averages by name, those of masters quantized to nearest or not.

        Args:
            averages: by name, or in a model of the same names: the `module` of torch's AveragedModel.
        """
        averages = dict(averages.named_parameters()) if isinstance(averages, nn.Module) else averages
        held = {name: self.model.get_parameter(name) for name in averages}
        before = {name: p.detach().clone() for name, p in held.items()}
        weights = {w.name: w for w in self._members.weights if rounded}
        with torch.no_grad():
            for name, p in held.items():
                p.copy_(weights[name].rounded(averages[name]) if name in weights else averages[name])
        self.shows = True
        try:
            yield
        finally:
            self.shows = False
            with torch.no_grad():
                copy_all(held.values(), before.values())

    # -- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on: masters, quantized weights, scales, counters; and how they were made."""
        if not self.swapped:
            self._members.look()
            for w in self._members.weights:
                w.follow()
        saved = state.saved(self._members.weights)
        if self._learned is not None:
            saved["learned"] = self._learned.state()
        return {**saved, "flips": self.flips(), "calls": self.calls, "made": dict(self.made)}

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave; before or after the model's own state dict, in either order.

        Raises:
            ValueError: it is of other weights, or of weights quantized in another way. Nothing is changed then.
        """
        self.follow()
        state.check(saved, self._members.weights, self.made)
        for w, (level, regrid, seen) in zip(self._members.weights, saved["flips"].tolist(), strict=True):
            w.load(saved)
            w.flips.copy_(torch.tensor([level, regrid]))
            w.seen = seen
        if self._learned is not None:
            self._learned.load(saved["learned"])
        self.calls = saved["calls"]


def copy_all(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    if pairs := list(zip(targets, sources, strict=True)):
        torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])
