"""What an optimizer does besides moving the masters: it decays weights and keeps momenta. Found out by letting it step.

A *trial* is an optimizer of the same class and options that holds one small parameter of its own. What it does to that
one says how its decay works and what it keeps, whatever it is called.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .closures import ONCE

MOMENTUM = "momentum_buffer"  # what SGD calls it
_LR, _DECAY, _STEPS = 2.0**-5, 2.0**-3, 3  # exact in float32, and far from what rounding could bring about

Optimizer = torch.optim.Optimizer
Group = dict[str, Any]


def check(optimizer: Any) -> None:
    """Refuse an optimizer that cannot step on masters.

    Raises:
        ValueError: it is none, needs a closure, or swaps what the parameters hold.
    """
    name = type(optimizer).__name__
    if not isinstance(optimizer, Optimizer):
        raise ValueError(f"quantized weights take a torch.optim.Optimizer, or a list of them, got a {name}")
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(f"{name} cannot step without its closure, which it runs again and again: {ONCE}")
    if all(callable(getattr(optimizer, method, None)) for method in ("eval", "train")):
        raise ValueError(
            f"{name} exchanges what the parameters hold in eval() and train(), and what it puts there is on no grid: "
            "take SGD or AdamW, and evaluate averages of the masters within `weights.averaged(averages)`"
        )


# -- decay ------------------------------------------------------------------------------------------------------------


def decay_kind(optimizer: Optimizer, group: Group, like: Tensor) -> int:
    """How weight decay reaches a parameter like this one.

    Returns:
        0, decoupled: each step multiplies it by 1 - lr * decay. 1, coupled: decay * weight is added to the gradient;
        -1, subtracted from it (`maximize`).

    Raises:
        ValueError: neither, or it cannot be tried.
    """
    decaying = _path(optimizer, {**group, "weight_decay": _DECAY}, like, lambda w: torch.zeros_like(w))
    for sign in (1, -1):
        by_gradient = _path(optimizer, {**group, "weight_decay": 0}, like, lambda w, s=sign: s * _DECAY * w)  # type: ignore[misc]
        if _same(decaying, by_gradient):
            return sign
    decoupled = [torch.full_like(w, (1 - _LR * _DECAY) ** (i + 1)) for i, w in enumerate(decaying)]
    if _same(decaying, decoupled):
        return 0
    raise ValueError(
        f"decay='quantized' does not fit {type(optimizer).__name__}: its weight decay neither multiplies the weights "
        "by 1 - lr * weight_decay nor goes into the gradient; use decay='master'"
    )


def _path(optimizer: Optimizer, group: Group, like: Tensor, gradient: Callable[[Tensor], Tensor]) -> list[Tensor]:
    return [w for w, _, _ in _trial(optimizer, group, like, gradient)]


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-6, atol=0) for a, b in zip(one, other, strict=True))


# -- momenta ----------------------------------------------------------------------------------------------------------


def check_momenta(optimizer: Optimizer, group: Group, like: Tensor) -> None:
    """Refuse an optimizer that keeps something of a parameter that cannot be rounded with it.

    Raises:
        ValueError: a state that is no plain tensor of the parameter's shape.
    """
    *_, (w, state, _) = _trial(optimizer, group, like, torch.ones_like)
    check_state(optimizer, state, w)


def check_state(optimizer: Optimizer, state: Group, p: Tensor) -> None:
    """As `check_momenta`, of the state of one parameter."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.ndim > 0 and (value.shape != p.shape or not _plain(value)):
            raise ValueError(
                f"momentum= cannot round {key!r} of {type(optimizer).__name__}, of shape {tuple(value.shape)} for a "
                f"weight of shape {tuple(p.shape)}: use momentum='fp32' with this optimizer"
            )


def momenta(state: Group, p: Tensor) -> Iterator[tuple[str, Tensor]]:
    """What an optimizer keeps of a parameter, element by element: momenta, second moments, maxima, sums."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.ndim > 0 and value.shape == p.shape and value.is_floating_point():
            yield key, value


def check_momentum_use(optimizer: Optimizer, group: Group, like: Tensor) -> None:
    """Refuse an optimizer whose step is anything but weight - lr * momentum.

    Raises:
        ValueError: it is.
    """
    steps = _trial(optimizer, group, like, torch.ones_like)
    before = torch.ones_like(steps[0][0])
    for w, state, lr in steps:
        momentum = state.get(MOMENTUM)
        if momentum is None or not torch.equal(w, before.add(momentum, alpha=-lr)):
            raise ValueError(
                f"momentum_use='rounded' needs steps of -lr * {MOMENTUM}, as SGD with momentum and without nesterov "
                f"makes them, and {type(optimizer).__name__} does something else here: use momentum_use='exact'"
            )
        before = w


def _plain(value: Tensor) -> bool:
    return type(value) in (Tensor, nn.Parameter) and value.is_floating_point() and not value.is_sparse


# -- the trial --------------------------------------------------------------------------------------------------------


def _trial(
    optimizer: Optimizer, group: Group, like: Tensor, gradient: Callable[[Tensor], Tensor]
) -> list[tuple[Tensor, Group, float]]:
    """A few steps from ones, each: the weight after it, a copy of its state, the learning rate."""
    for sparse in (False, True):  # some take only the one, some only the other
        try:
            return list(_steps(optimizer, group, like, gradient, sparse))
        except Exception as error:
            if sparse:
                raise ValueError(
                    f"what {type(optimizer).__name__} does to decay and momenta could not be tried on a parameter of "
                    f"its own ({error}): use decay='master' and momentum='fp32'"
                ) from error
    raise AssertionError


def _steps(
    optimizer: Optimizer, group: Group, like: Tensor, gradient: Callable[[Tensor], Tensor], sparse: bool
) -> Iterator[tuple[Tensor, Group, float]]:
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    w = nn.Parameter(torch.ones([2, 3, *[1] * (like.ndim - 2)][: like.ndim], dtype=dtype, device=like.device))
    lr = torch.full_like(group["lr"], _LR) if isinstance(group.get("lr"), Tensor) else _LR
    alike = stand_in(optimizer, {**group, "params": [w], "lr": lr})
    for _ in range(_STEPS):
        grad = gradient(w.detach())
        w.grad = grad.to_sparse(1) if sparse else grad
        type(optimizer).step(alike)
        state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in alike.state[w].items()}
        yield w.detach().clone(), state, _LR


def stand_in(optimizer: Optimizer, group: Group) -> Optimizer:
    """An optimizer of the same class and options, with this group alone; it shares nothing that a step changes."""
    twin: Optimizer = object.__new__(type(optimizer))
    for key, value in optimizer.__dict__.items():
        if key.endswith("_hooks"):
            twin.__dict__[key] = OrderedDict()
        elif value is None or isinstance(value, bool | int | float | str | tuple) or key == "defaults":
            twin.__dict__[key] = value
    twin.state = defaultdict(dict)
    twin.param_groups = [group]
    return twin
