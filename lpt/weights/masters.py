"""A model's quantized weights and their masters.

A `Parameter` holds the *quantized* weight, so the forward pass, evaluation and the state dict see nothing else. Its
full-precision *master* takes its place only while the optimizer steps. Afterwards a scheme computes the new
quantized weight from the new master and the previous quantized weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..formats.kernels import Library
from . import state
from .choices import check_choices, check_scales
from .holding import Holding
from .keeping import keeping
from .learned import LearnedScales
from .members import Members
from .optimizers import USES, Besides, check_moved, offset
from .remedy import Moment, Remedy, over
from .rules import FormatSpec, Scheme
from .scales import LEARNED
from .schemes import scheme as named
from .step import Plan
from .weight import Weight

Optimizer = torch.optim.Optimizer
_WATCHED = 4  # steps that are watched on other devices than the CPU, where to look costs waiting


class QuantizedWeights(Holding):
    """Quantizes a model's weights in place and keeps their masters.

    In a loop: `swap_in(optimizer)` when the gradients are ready, `optimizer.step()`, `update(optimizer)`; `restore()`
    instead of the last if the step raised. `attach_weights_` does this by hooks.

    A step changes the weights that its optimizer holds, that require a gradient and have one; the others stay as they
    are and are not counted. What was written into a parameter between two steps is taken over, value by value
    (`Weight.follow`); another parameter in its place is told as a mistake, and `refresh` takes it over.

    Args:
        model: its weights (`lpt.weights.parameters.quantizable`) become quantized now, to nearest.
        scheme, format, width: as for `lpt.weights.scheme`. "fp32" quantizes nothing.
        scaling: "current", the scale of the master's largest magnitude at each step; "tracked", which moves
            towards it by at most one a step; "delayed", which moves so, but after the step has used it; "lsq", a scale
            that trains with the weights (`learned`), of a format whose scales are real numbers.
        scale_rule: when a largest weight counts to the octave above (`lpt.formats.Format.carry`): "rounded", where
            rounding it would reach that octave, as the paper's author has it; "floor", never; "ceil"; "rceil".
        granularity: "channel", one scale per output channel of a convolution and one per layer otherwise, or
            "tensor", one per layer throughout.
        master: what is kept of it after each step: "fp32"; "fp169", 16 bits by stochastic rounding; a block format, the
            same; "quantized", the quantized weight and no more; "residual", that and 16 bits of what it lacks;
            "clamped", no magnitude outside of the grid's levels. In a float64 model "fp32" stands
            for float64; in one of 16 bits masters, gradients and momenta of a step are float32 all the same.
        gradient: "fp32", "fp169" or a block format, to which a gradient is rounded stochastically before the step.
        momentum: "fp32", "fp169" or a block format for all that the optimizer keeps of a weight, element by element.
        momentum_use: "exact", the master moves by the momentum before it is rounded; "rounded", after.
        decay: weight decay acts on the "master", as the optimizer does it, or on the "quantized" weight.
        skip: globs of parameter names to leave in full precision.
        room: octaves of headroom of the weight's scale.
        seed: of all stochastic rounding; the same on all ranks.
        remedy: against flickering weights (`lpt.weights.remedy`).
        steps: optimizer steps of the whole training, which some remedies must know; may be set later.
        kernels: compiled passes over each weight (`lpt.formats.kernels.Library`); the bits stay the same.

    Attributes:
        left_out: what looks like a weight and is not quantized, by name: the reason.
        swapped: whether the parameters hold masters at the moment.

    Raises:
        ValueError: an unknown choice, a pattern of `skip` that matches no weight, a module that has not run yet and
            so has no weight, an embedding with `max_norm`, or a dtype that does not hold the format.
    """

    def __init__(
        self,
        model: nn.Module,
        scheme: str | Scheme = "log4_hyst",
        *,
        format: FormatSpec | None = None,
        width: float | None = None,
        scaling: str = "current",
        scale_rule: str = "rounded",
        granularity: str = "channel",
        master: str = "fp32",
        momentum: str = "fp32",
        momentum_use: str = "exact",
        gradient: str = "fp32",
        decay: str = "master",
        skip: Sequence[str] = (),
        room: int = 0,
        seed: int = 0,
        remedy: Remedy | None = None,
        steps: int | None = None,
        kernels: Library | None = None,
    ) -> None:
        check_choices(locals())
        rule = over(remedy, named(scheme, format, width))
        self.remedy, self.steps = remedy or Remedy(), steps
        check_scales(rule.format, scaling, scale_rule, room)
        self.model, self.kernels = model, kernels
        self.swapped = False
        self.stepping: Optimizer | None = None  # whose step the masters are in for
        self.calls = 0  # of `update`, and so the counter of all random bits
        plan = Plan(rule, scaling, scale_rule, room)
        self.made = state.made(plan, granularity, master, remedy)
        self._keep = keeping(master)
        self._learned = LearnedScales() if scaling == LEARNED else None
        self._besides = Besides(decay, momentum, momentum_use, gradient)
        self._admitted: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()
        self._held: list[Weight] = []  # those whose masters are in the parameters,
        self._active: list[Weight] = []  # and those of them that the step changes
        self._frozen: list[tuple[nn.Parameter, Tensor]] = []
        self._moment: Moment | None = None  # the step, as a remedy sees it
        with torch.no_grad():
            self._members = Members(model, plan, granularity, skip, seed, self.remedy)
            for w in self._members.weights if self._keep is not None and master != "fp169" else ():
                self._keep(w, None)  # type: ignore[misc]

    @property
    def scheme(self) -> Scheme:
        """The rule for the next quantized weight; another one of the same format may be set between two steps."""
        return self._members.plan.scheme

    @scheme.setter
    def scheme(self, scheme: Scheme) -> None:
        self._members.exchange(scheme)

    # -- around the optimizer's step ----------------------------------------------------------------------------------

    @torch.no_grad()
    def swap_in(self, optimizer: Optimizer | None = None) -> None:
        """Put the masters into the parameters: the optimizer is about to step.

        Args:
            optimizer: its weights, less those without a gradient, are stepped; all weights if it is not given.

        Raises:
            ValueError: the model or the optimizer is not what it was when its weights were quantized, or does not fit.
            RuntimeError: the masters are in already.
        """
        if self.swapped:
            raise RuntimeError("the masters are in the parameters already; call update() or restore() after the step")
        self._members.look()
        if optimizer is not None:
            self.admit(optimizer)
        self._held = self._active = self._members.weights if optimizer is None else self.of(optimizer)
        if optimizer is not None:
            self._active = [w for w in self._held if w.param.requires_grad and w.param.grad is not None]
        active = {id(w) for w in self._active}
        for w in self._members.weights:
            w.before_load.clear()
            if id(w) in active:
                w.watch(w.follow(), self.calls < _WATCHED)
            else:
                w.settle(closely=False)
        self.swapped, self.stepping = True, optimizer
        try:
            if optimizer is not None:
                self._freeze()
            for w in self._held:
                w.put_in()
            if optimizer is not None:
                self._moment = Moment(optimizer, self._active, self.calls + 1, self.steps)
                self._moment.dial(self.scheme)
                self.remedy.before_step(self._moment)
                if self._learned is not None:
                    self._learned.before(optimizer, self._active)
                self._besides.before(optimizer, self._active, self._key)
        except Exception:
            self.restore()
            raise

    @torch.no_grad()
    def update(self, optimizer: Optimizer | None = None) -> None:
        """The optimizer has stepped: keep the new masters, and write the next quantized weights.

        Raises:
            ValueError: it moved the quantized weights instead of the masters; they are put back.
        """
        if not self.swapped:
            raise RuntimeError("update() without swap_in(): call swap_in() before the optimizer's step")
        active, moment = self._active, self._moment
        self._take_out()
        try:
            check_moved(optimizer, active)
            self.calls += 1
            if optimizer is not None:
                self._besides.after(optimizer, active, self._key)
                if self._learned is not None:
                    self._learned.after()
            self._advance(active, moment)
        finally:
            self.remedy.end()

    def _advance(self, active: Sequence[Weight], moment: Moment | None) -> None:
        """From the new masters to the next quantized weights."""
        if moment is not None:
            self.remedy.after_step(moment)
        if self._keep is not None and self._keep.early:
            for w in active:
                self._keep(w, self._key)
        if active:
            stochastic = self.scheme.stochastic
            flips = [w.next(self.kernels, self._key(w, "quantized") if stochastic else None) for w in active]
            torch._foreach_add_([w.flips for w in active], flips)
            if moment is not None:
                self.remedy.chosen(moment)
            for w in active:
                w.seen += w.master.numel()
                if self._keep is not None and not self._keep.early:
                    self._keep(w, self._key)

    @torch.no_grad()
    def restore(self) -> None:
        """The step failed: quantized weights back into the parameters; the masters stay as the step left them."""
        self._take_out()
        if self._learned is not None:
            self._learned.drop()
        self.remedy.end()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _freeze(self) -> None:
        """Hide the gradients that frozen weights may still have: an optimizer looks at nothing else."""
        for w in self._held:
            if not w.param.requires_grad and w.param.grad is not None:
                self._frozen.append((w.param, w.param.grad))
                w.param.grad = None

    def _take_out(self) -> None:
        for w in self._members.weights:
            w.take_out()
        for p, grad in self._frozen:
            p.grad = grad
        self._besides.end()
        self._held, self._active, self._frozen, self._moment = [], [], [], None
        self.swapped, self.stepping = False, None

    def _key(self, weight: Weight, use: str) -> Tensor:
        """A key of its own for each step, weight and use of random bits: no state beyond the count of steps."""
        if use in USES:
            return weight.keys[USES.index(use)] + self.calls
        return weight.keys[-1] + (offset(use) + self.calls)
