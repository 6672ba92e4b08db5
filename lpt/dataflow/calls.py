"""Whether `flow.step()` is called once for each step of an optimizer: forgotten or called twice, it is told, once each.

What is known of a flow is kept beside it, so that models can be copied and saved as before.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

FORGOTTEN = (
    "an optimizer stepped this model's weights without flow.step(): G was not rounded, and the scales of A and E did "
    "not move; call flow.step() once, after backward() and before optimizer.step()"
)
TWICE = (
    "flow.step() was called twice for the same gradients: the scales moved twice; call it once for each "
    "optimizer.step()"
)

Known = list[tuple[int, int]]  # identities and versions


class Calls:
    """What was called for one flow: its steps, and those of optimizers.

    Args:
        ids: of the model's parameters.
    """

    def __init__(self, ids: frozenset[int]) -> None:
        self.ids = ids
        self.count = 0
        self.seen: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()  # `count` at the optimizer's last step
        self.kept: Tensor | None = None  # a gradient of the last step, so that no other has its identity
        self.last: Known = []  # what all of them were when it ended
        self.told: set[str] = set()

    def tell(self, what: str) -> None:
        if what not in self.told:
            self.told.add(what)
            warnings.warn(what, stacklevel=3)


# By `Flow`, of all in the process, since so wide is torch's hook.
_calls: WeakKeyDictionary[Any, Calls] = WeakKeyDictionary()


def watch(flow: Any) -> None:
    """From now on optimizers' steps are compared with those of `flow`."""
    _hook_all_optimizers()
    _calls[flow] = Calls(frozenset(id(p) for p in flow.model.parameters()))


def begins(flow: Any, grads: Iterable[Tensor | None]) -> None:
    """`flow.step()` begins, on these gradients."""
    if (calls := _calls.get(flow)) is None:
        return
    calls.count += 1
    there = [g for g in grads if g is not None]
    if calls.kept is not None and any(g is calls.kept for g in there) and _known(there) == calls.last:
        calls.tell(TWICE)


def ends(flow: Any, grads: Iterable[Tensor | None]) -> None:
    """It ends. The smallest gradient is kept, to be known again."""
    if (calls := _calls.get(flow)) is not None:
        there = [g for g in grads if g is not None]
        calls.kept, calls.last = min(there, key=lambda g: g.numel(), default=None), _known(there)


def _known(grads: list[Tensor]) -> Known:
    return [(id(g), g._version) for g in grads]


def forget(flow: Any) -> None:
    """The flow is removed."""
    _calls.pop(flow, None)


@functools.cache
def _hook_all_optimizers() -> None:
    # After the step, since it may be the step that runs the closure, and flow.step() within.
    register_optimizer_step_post_hook(_after)  # type: ignore[arg-type]


def _after(optimizer: Optimizer, *_: Any) -> None:
    for flow, calls in list(_calls.items()):
        if not any(id(p) in calls.ids for group in optimizer.param_groups for p in group["params"]):
            continue
        if calls.count == calls.seen.get(optimizer, 0) and flow.mode.on and flow.ran:
            calls.tell(FORGOTTEN)
        calls.seen[optimizer] = calls.count
