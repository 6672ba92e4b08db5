"""Has a model changed since hooks were put on it? Modules and parameters are compared as objects, by name."""

from __future__ import annotations

import operator
from itertools import chain
from typing import Any

from torch import nn

ADVICE = "call remove() on its handle, change the model, then attach_ again, and its weights too"


class Structure:
    """What `model` consisted of when this was made."""

    def __init__(self, model: nn.Module) -> None:
        self._held = [(n, m, _items(m._modules), _items(m._parameters)) for n, m in model.named_modules()]
        self._modules = [m for _, m, _, _ in self._held]
        self._names, self._objects = _all(self._modules)

    def changed(self) -> str:
        """The first difference, as a sentence without its end; "" if there is none."""
        names, objects = _all(self._modules)  # all at once: this is asked at every step
        if names == self._names and all(map(operator.is_, objects, self._objects)):
            return ""
        for name, module, modules, parameters in self._held:
            if not _same(module._modules, modules):
                return _difference(name, "module", module._modules, modules)
            if not _same(module._parameters, parameters):
                return _difference(name, "parameter", module._parameters, parameters)
        return ""


def _all(modules: list[nn.Module]) -> tuple[list[Any], list[Any]]:
    """Names of submodules and parameters, a mark behind each module's, and these objects."""
    own: list[dict[str, Any]] = [d for m in modules for d in (m._modules, m._parameters, _END)]
    return list(chain.from_iterable(own)), list(chain.from_iterable(map(dict.values, own)))


_END: dict[Any, Any] = {None: None}


def _items(own: dict[str, Any]) -> list[tuple[str, Any]]:
    return list(own.items())


def _same(now: dict[str, Any], before: list[tuple[str, Any]]) -> bool:
    return len(now) == len(before) and all(now.get(name) is value for name, value in before)


def _difference(owner: str, kind: str, now: dict[str, Any], before: list[tuple[str, Any]]) -> str:
    then = dict(before)
    name = next(n for n in [*then, *now] if n not in now or n not in then or now[n] is not then[n])
    full = f"{owner}.{name}" if owner else name
    if name not in now:
        return f"{kind} {full!r} is gone"
    if name not in then:
        return f"{kind} {full!r} is new"
    if kind == "parameter":
        return f"parameter {full!r} is another object (tied, replaced, or loaded with assign=True)"
    was, new = type(then[name]).__name__, type(now[name]).__name__
    return f"module {full!r} was {was} and is now {'another ' if was == new else ''}{new}"
