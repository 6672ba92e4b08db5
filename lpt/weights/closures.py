"""Optimizers that are handed a closure: it has to run once a step, on the quantized weights, before the masters come.

`optimizer.step(closure)` is a convention of torch that Lightning uses for every step. Most optimizers run the closure
first and once, and then `run_first` can do it for them; some (LBFGS, sharpness-aware ones) run it again at other
weights, which would be masters on no grid. Which kind one is, is found by letting it step, not by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

ONCE = (
    "masters take the place of the quantized weights within the step, so its closure must run once and before a weight "
    "moves: take SGD, AdamW or the like"
)

Optimizer = torch.optim.Optimizer
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def run_first(
    optimizer: Optimizer,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    then: Callable[[], None],
    undo: Callable[[], None] = lambda: None,
) -> Arguments | None:
    """For a pre-hook of `optimizer.step`: run the closure, if there is one, and only `then` let the step begin.

    Args:
        optimizer, args, kwargs: as the hook gets them; `args[0]` is the optimizer.
        then: puts the masters in.
        undo: takes them out, before an error leaves the step.

    Returns:
        What the hook shall return: arguments with a closure that gives the loss that was found; None without one.

    Raises:
        ValueError: from within the step, if it runs the closure again or moved a weight before.
    """
    closure = args[1] if len(args) > 1 else kwargs.get("closure")
    if closure is None:
        then()
        return None
    with torch.enable_grad():
        loss = closure()
    then()
    watch = _Watch(optimizer)

    def found() -> Any:
        if why := watch.why_not():
            undo()
            raise ValueError(f"{type(optimizer).__name__} {why}: {ONCE}")
        return loss

    return (args[:1], {**kwargs, "closure": found}) if len(args) < 2 else ((args[0], found, *args[2:]), kwargs)


def why_not(make: Callable[[list[nn.Parameter]], Optimizer], parameters: Iterable[Tensor], sparse: Sequence[bool] = (),
            device: torch.device | str = "cpu", clip: float | None = None) -> str:  # fmt: skip
    """Why the optimizer that `make` makes cannot train quantized weights; "" if it can.

    It takes one step on stand-ins, two elements long in each dimension, with a closure and a gradient.

    Args:
        make: from a list of parameters to the optimizer.
        parameters: what it will be given; only their shapes, dtypes and requires_grad are looked at.
        sparse: which of them get sparse gradients; none, if left out.
        device: where it will run.
        clip: the norm that gradients are clipped to before the step, if any.
    """
    own = [_stand_in(p, device) for p in parameters]
    calls: list[str] = []  # why each call of the closure was a mistake; "" if it was none

    def closure() -> Tensor:
        calls.append(watch.why_not())
        for p, thin in zip(own, sparse or [False] * len(own), strict=True):
            if p.requires_grad:
                grad = torch.full_like(p, 0.1)
                p.grad = grad.to_sparse(1) if thin else grad
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(own, clip)
        return torch.ones((), device=device)

    try:
        optimizer = make(own)
        watch = _Watch(optimizer)
        optimizer.step(closure)  # type: ignore[arg-type]
    except Exception as error:  # whatever an optimizer of the user's own raises
        told = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        thin = "; some gradients are sparse, since an embedding has sparse=True" if any(sparse) else ""
        return f"the optimizer cannot step on this model's parameters: {told}{thin}"
    wrong = [why for why in calls if why] if calls else ["never runs its closure"]
    return f"{type(optimizer).__name__} {wrong[0]}: {ONCE}" if wrong else ""


class _Watch:
    """Whether a closure is called for the first time, and before any weight was moved."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.held = [p for group in optimizer.param_groups for p in group["params"]]
        self.before = self._versions()
        self.called = False

    def why_not(self) -> str:
        moved, again = self._versions() != self.before, self.called
        self.called = True
        if again:
            return "runs its closure more than once a step"
        return "moves the weights before it runs its closure" if moved else ""

    def _versions(self) -> list[tuple[int, int]]:
        return [(p.data_ptr(), p._version) for p in self.held]


def _stand_in(p: Tensor, device: torch.device | str) -> nn.Parameter:
    shape = [min(2, size) for size in p.shape]
    return nn.Parameter(torch.full(shape, 0.5, dtype=p.dtype, device=device), requires_grad=p.requires_grad)
