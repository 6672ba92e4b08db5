"""`attach_weights_`: quantized weights in a plain training loop, by hooks on the optimizers' steps."""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from .closures import Arguments, run_first
from .masters import QuantizedWeights
from .members import AfterLoad
from .optimizers import Besides
from .parameters import chosen, quantizable
from .rules import Scheme
from .schemes import scheme as named
from .trials import check
from .weight import Weight

ATTACHED = "_lpt_weights"  # where a model keeps its handle

OFF_GRID = (
    "is evaluated with values off its grid, as averages of rounded weights are (AveragedModel, SWA, EMA): average the "
    "masters, within `weights.unrounded()`, and evaluate within `weights.averaged(average.module)`; or call "
    "`weights.follow()`, which rounds what was written"
)
Optimizer = torch.optim.Optimizer


class AttachedWeights(QuantizedWeights):
    """Quantized weights that every optimizer which holds some of them steps by their masters.

    Torch's hooks on the steps of all optimizers serve it, since optimizers come and go: a second one for a later
    phase, one with a share of the weights, one that was copied and has lost its own hooks.
    """

    def __init__(self, model: nn.Module, scheme: str | Scheme = "log4_hyst", **options: Any) -> None:
        super().__init__(model, scheme, **options)
        model.__dict__[ATTACHED] = self
        self._members.attached = True
        self._told = False  # whether values off the grid were told
        self._hook = model.register_forward_pre_hook(_look)
        _listen(self)

    @contextmanager
    def unrounded(self) -> Iterator[None]:
        """Within, the parameters hold their masters: for what averages or measures all parameters of a model."""
        self.swap_in()
        try:
            yield
        finally:
            self.restore()

    def keep_wide(self, optimizer: Optimizer) -> None:
        """Torch casts a state that is loaded to the dtype of its parameter: let that be the master's meanwhile."""
        own = weakref.ref(self)

        def narrow() -> list[Weight]:
            weights = own()
            return [] if weights is None else [w for w in weights.of(optimizer) if w.narrow]

        def before(opt: Optimizer, state: Any) -> None:
            for w in narrow():
                w.follow()
            for w in narrow():
                w.put_in()

        def after(opt: Optimizer) -> None:
            if (weights := own()) is not None:
                weights.restore()

        optimizer.register_load_state_dict_pre_hook(before)
        optimizer.register_load_state_dict_post_hook(after)

    def remove(self) -> None:
        """Give the parameters their masters back, and let go of the model and of its optimizers."""
        super().remove()
        self._hook.remove()
        _listening.discard(self)
        self.model.__dict__.pop(ATTACHED, None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _listen(self)


def _look(model: nn.Module, args: Any) -> None:
    """Before a forward pass in evaluation: tell, once, of weights off their grid. Any average of weights passes here,
    in the model or in a copy of it, whoever made it."""
    weights: AttachedWeights | None = model.__dict__.get(ATTACHED)
    if weights is None or weights._told or model.training or torch.compiler.is_compiling():
        return
    if name := weights.stray():
        weights._told = True
        warnings.warn(f"{name!r} {OFF_GRID}", stacklevel=4)


_listening: weakref.WeakSet[AttachedWeights] = weakref.WeakSet()  # as wide as torch's hook, which is the process's


def _listen(weights: AttachedWeights) -> None:
    """From now on every optimizer's step asks these weights."""
    _hook_all_optimizers()
    _listening.add(weights)


@functools.cache
def _hook_all_optimizers() -> None:
    register_optimizer_step_pre_hook(_before)  # type: ignore[arg-type]
    register_optimizer_step_post_hook(_after)  # type: ignore[arg-type]


def _before(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
    # Within the step of an optimizer around this one the masters are in already.
    free = [w for w in list(_listening) if w.stepping in (None, optimizer)]
    own = [w for w in free if w.holds(optimizer)]
    for weights in free:
        if weights not in own:
            weights.meet(optimizer)
    if not own:
        return None

    def swap_in() -> None:
        for weights in own:
            weights.swap_in(optimizer)

    def restore() -> None:
        for weights in own:
            weights.restore()

    return run_first(optimizer, args, kwargs, swap_in, restore)


def _after(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for weights in list(_listening):
        if weights.stepping is optimizer:
            weights.update(optimizer)


def attach_weights_(
    model: nn.Module, optimizer: Optimizer | Sequence[Optimizer], scheme: str | Scheme = "log4_hyst", **options: Any
) -> AttachedWeights:
    """Quantize the weights of `model` and keep them so through every `optimizer.step()`, by hooks.

    Any other optimizer that steps some of the weights later does so by their masters, too; it need not be attached.
    A deep copy of the model is attached as the model is. For another scheme, call `remove()` on the handle first.

    Args:
        model, scheme, options: as for QuantizedWeights.
        optimizer: holds the model's parameters; or a list of optimizers that hold them together.

    Raises:
        ValueError: as QuantizedWeights; also if the weights are attached already, or the optimizers leave out some that
            require a gradient, or do not fit. `optimizer.step(closure)`, which runs the closure first and once, on the
            quantized weights, raises it if the optimizer would run it again.
    """
    optimizers = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    for one in optimizers:
        check(one)
    if ATTACHED in model.__dict__:
        raise ValueError(
            "this model's weights are attached to an optimizer already, and any further optimizer that holds them will "
            "do without attaching; for another scheme call remove() on their handle first"
        )
    if any(isinstance(h, AfterLoad) and h.members and h.members.attached for h in _load_hooks(model)):
        raise ValueError(
            "a part of this model, or a model that it is a part of, has attached weights already: call remove() on "
            "their handle first"
        )
    _check_held(model, optimizers, options.get("skip", ()))
    besides = Besides(*(options.get(key, value) for key, value in _BESIDES.items()))
    for one in optimizers:
        besides.admit(one, {id(p) for p in quantizable(model).values()})
    rule = named(scheme, options.get("format"), options.get("width"))
    follows = [one for one in (options.get("remedy"), rule) if getattr(one, "follows", False)]
    if follows and options.get("steps") is None:
        raise ValueError(
            f"{type(follows[0]).__name__} follows the training's progress: give steps=, all of its optimizer steps"
        )
    weights = AttachedWeights(model, scheme, **options)
    for one in optimizers:
        weights.keep_wide(one)
    return weights


_BESIDES = {"decay": "master", "momentum": "fp32", "momentum_use": "exact", "gradient": "fp32"}


def _load_hooks(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        yield from module._load_state_dict_post_hooks.values()


def _check_held(model: nn.Module, optimizers: Sequence[Optimizer], skip: Sequence[str]) -> None:
    held = {id(p) for one in optimizers for group in one.param_groups for p in group["params"]}
    if not any(id(p) in held for p in quantizable(model).values()):
        raise ValueError("the optimizer holds none of this model's weights: make it from model.parameters()")
    left = [name for name, p in chosen(model, skip).items() if p.requires_grad and id(p) not in held]
    if left:
        some = ", ".join(map(repr, left[:3])) + ", ..." * (len(left) > 3)
        raise ValueError(
            f"no optimizer holds {some}: give attach_weights_ a list of all optimizers, freeze these weights with "
            "requires_grad_(False), or leave them in full precision with skip="
        )
