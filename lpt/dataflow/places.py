"""Places of tensors within what a module takes or returns: tuples, lists, dicts and dataclasses of them.

A place is a path of positions and keys. The first place, position 0 all the way down, is named "", so that the one
tensor that most modules take and return has its module's own name; others are named like "[1]" or "[boxes.0]".
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Path = tuple[Any, ...]
Visit = Callable[[Tensor, Path], Any]
Other = Callable[[Any, bool], Any]  # takes a value, and whether it has tensors in it that must be replaced
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)  # hold no tensor


def refuse(value: Any, needed: bool) -> Any:
    """`other` of `mapped` for arguments: what is no container passes; one that cannot be made again is an error."""
    if not needed:
        return value
    raise ValueError(
        f"an argument of the model is a {type(value).__name__} that cannot be made again with its tensors rounded: "
        "pass tensors, or tuples, lists, dicts or dataclasses of them"
    )


def refuse_nested(x: Tensor, what: str) -> None:
    """Raise for a nested tensor, whose parts have no scale in common."""
    if x.is_nested:
        raise ValueError(
            f"{what} is a nested tensor, which is not rounded: pad it (torch.nested.to_padded_tensor) and give a mask"
        )


def mapped(value: Any, visit: Visit, path: Path = (), alike: bool = False, other: Other = refuse) -> Any:
    """`value` with each tensor t in it, at path p, replaced by visit(t, p).

    Args:
        alike: the items of a list are one place, as a list of images of different sizes is one batch.
        other: is asked for what stands in the place of anything that is no tensor and holds none in a known way, and
            of a tuple, list, dict or dataclass that cannot be made again with other tensors.
    """
    if isinstance(value, Tensor):
        return visit(value, path)
    if isinstance(value, dict):
        items = {key: mapped(v, visit, (*path, key), alike, other) for key, v in value.items()}
    elif isinstance(value, list):
        items = {i: mapped(v, visit, path if alike else (*path, i), alike, other) for i, v in enumerate(value)}
    elif isinstance(value, tuple):
        names = getattr(value, "_fields", None) or range(len(value))
        items = {k: mapped(v, visit, (*path, k), alike, other) for k, v in zip(names, value, strict=True)}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)}
        items = {name: mapped(v, visit, (*path, name), alike, other) for name, v in own.items()}
    else:
        return value if isinstance(value, PLAIN) else other(value, False)
    return _again(value, items, other)


def _again(value: Any, items: dict[Any, Any], other: Other) -> Any:
    """`value` with other items, of the same type."""
    kind = type(value)
    if kind is dict:
        return items
    if kind in (list, tuple):
        return kind(items.values())
    if isinstance(value, tuple) and hasattr(value, "_fields") and kind.__bases__ == (tuple,):
        return kind(*items.values())
    old = _items(value)
    if all(new is old[key] for key, new in zip(old, items.values(), strict=True)):
        return value
    try:
        again = _made(value, list(items.values()))
        if type(again) is kind and all(a is b for a, b in zip(_items(again).values(), items.values(), strict=True)):
            return again
    except Exception:  # whatever a class of somebody's own raises
        pass
    return other(value, True)


def _items(value: Any) -> dict[Any, Any]:
    if isinstance(value, dict):
        return dict(value.items())
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)}


def _made(value: Any, new: list[Any]) -> Any:
    """A copy of `value` with `new` items, and with them in those attributes that were the old ones."""
    old = _items(value)
    again: Any
    if isinstance(value, tuple):
        try:
            again = tuple.__new__(type(value), new)
        except TypeError:  # one that is made in C, as torch.return_types are
            return type(value)(new)
        if hasattr(value, "__dict__"):
            vars(again).update(vars(value))
    elif isinstance(value, dict):
        again = copy.copy(value)
        if getattr(value, "__dict__", None) is value:
            again.__dict__ = again
        for key, x in zip(old, new, strict=True):
            again[key] = x
    elif isinstance(value, list):
        again = copy.copy(value)
        again[:] = new
    else:
        items = dict(zip(old, new, strict=True))
        made = [f.name for f in dataclasses.fields(value) if f.name in items and f.init]
        again = dataclasses.replace(value, **{name: items.pop(name) for name in made})
        for name, x in items.items():
            object.__setattr__(again, name, x)
        return again
    replaced = {id(a): b for a, b in zip(old.values(), new, strict=True) if a is not b}
    attributes = getattr(again, "__dict__", {})
    for name, x in [] if attributes is again else list(attributes.items()):
        if id(x) in replaced:
            attributes[name] = replaced[id(x)]
    return again


def floats_in(value: Any, depth: int = 4) -> Iterator[Tensor]:
    """Tensors of floats that are found in what an object holds."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
        return
    if depth == 0 or isinstance(value, (*PLAIN, type, nn.Module)):
        return
    if isinstance(value, dict):
        held = list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        held = list(value)
    else:
        slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
        held = [getattr(value, name) for name in slots if hasattr(value, name)]
        held += list(getattr(value, "__dict__", {}).values())
    for item in held:
        yield from floats_in(item, depth - 1)


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def name_of(path: Path) -> str:
    """ "" for the first place, "[1]" for the second of a tuple, "[boxes.0]" within a dict."""
    return "" if all(key == 0 and not isinstance(key, str) for key in path) else f"[{'.'.join(map(str, path))}]"


class Arguments:
    """The places of a model's arguments, the same whether they are given by position or by keyword."""

    def __init__(self, model: nn.Module) -> None:
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(model.forward).parameters.values()
        self._names = [p.name for p in parameters if p.kind in kinds]

    @property
    def single(self) -> bool:
        """Whether the model takes one argument at the most."""
        return len(self._names) <= 1

    def mapped(self, args: tuple[Any, ...], kwargs: dict[str, Any], visit: Visit) -> tuple[Any, Any]:
        """As the function `mapped`; a path begins with an argument's name, or with 0 for the first one."""
        by_place = tuple(mapped(arg, visit, (self._key(i),), alike=True) for i, arg in enumerate(args))
        first = self._names[0] if self._names else None
        by_name = {k: mapped(v, visit, (0 if k == first else k,), alike=True) for k, v in kwargs.items()}
        return by_place, by_name

    def printed(self, place: str) -> str:
        """A place as a user names it: "x", "batch.images"."""
        first = self._names[0] if self._names else "0"
        return place[1:-1] if place else first

    def _key(self, position: int) -> int | str:
        return self._names[position] if 0 < position < len(self._names) else position
