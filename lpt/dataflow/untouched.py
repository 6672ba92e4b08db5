"""A model that runs once more and is as it was before."""

from __future__ import annotations

import collections
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_PutBack = Callable[[], Any]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Within, `model` may run; afterwards parameters, buffers, attributes and random states are what they were.

    Of attributes of modules: tensors by value, lists, dicts, sets and deques by what they hold (tensors in them by
    value), generators by their state, anything else by which object it is. What an iterator, a file, or an object of
    one's own holds cannot be put back, nor what hooks of one's own did.
    """
    put_back: list[_PutBack] = []
    for module in model.modules():
        put_back += _module(module)
    state = random.getstate()
    put_back.append(lambda: random.setstate(state))
    if (numpy := sys.modules.get("numpy")) is not None and hasattr(numpy, "random"):
        numbers = numpy.random.get_state()
        put_back.append(lambda: numpy.random.set_state(numbers))
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for back in put_back:
                back()


def _module(module: nn.Module) -> Iterator[_PutBack]:
    """Attributes first, then what they hold."""
    attributes = vars(module).copy()

    def back() -> None:
        vars(module).clear()
        vars(module).update(attributes)

    yield back
    for value in attributes.values():
        yield from _value(value)


def _value(value: Any) -> Iterator[_PutBack]:
    if isinstance(value, Tensor):
        yield from _tensor(value)
    elif isinstance(value, torch.Generator):
        state = value.get_state()
        yield lambda: value.set_state(state)
    elif isinstance(value, (dict, list, set, collections.deque)):
        yield _held(value)
        for item in value.values() if isinstance(value, dict) else value:
            if isinstance(item, Tensor):
                yield from _tensor(item)


def _held(value: Any) -> _PutBack:
    """What a container holds; its own type's methods are not asked, since they may do more than that."""
    kind: Any = next(
        kind for kind in (collections.OrderedDict, dict, list, set, collections.deque) if isinstance(value, kind)
    )
    items = list(value.items()) if isinstance(value, dict) else list(value)

    def back() -> None:
        now = list(value.items()) if isinstance(value, dict) else list(value)
        if len(now) != len(items) or any(not _same(a, b) for a, b in zip(now, items, strict=True)):
            kind.clear(value)
            (kind.update if issubclass(kind, (dict, set)) else kind.extend)(value, items)

    return back


def _same(a: Any, b: Any) -> bool:
    """One object, or pairs of the same objects."""
    return a is b or (type(a) is type(b) is tuple and len(a) == len(b) and all(x is y for x, y in zip(a, b)))  # noqa: B905


def _tensor(x: Tensor) -> Iterator[_PutBack]:
    if x.layout != torch.strided or x.is_meta or x.is_nested or isinstance(x, nn.UninitializedParameter):
        return
    value = x.detach().clone()

    def back() -> None:
        with torch.no_grad():
            if x.shape == value.shape and not _equal(x, value):  # batch-norm's change without a new version
                x.detach().copy_(value)

    yield back


def _equal(x: Tensor, value: Tensor) -> bool:
    """Alike in value, nans too."""
    return torch.equal(x, value) or bool(((x == value) | ((x != x) & (value != value))).all())
