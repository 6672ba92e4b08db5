"""Places of tensors within what a module takes or returns: tuples, lists and dicts of tensors, nested in any way.

A place is a path of positions and keys. The first place, position 0 all the way down, is named "", so that the one
tensor that most modules take and return has its module's own name; others are named like "[1]" or "[boxes.0]".
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Path = tuple[Any, ...]
Visit = Callable[[Tensor, Path], Any]


def mapped(value: Any, visit: Visit, path: Path = (), alike: bool = False) -> Any:
    """`value` with each tensor t in it, at path p, replaced by visit(t, p).

    `alike`: the items of a list are one place, as a list of images of different sizes is one batch.
    """
    if isinstance(value, Tensor):
        return visit(value, path)
    if isinstance(value, dict):
        items = {key: mapped(v, visit, (*path, key), alike) for key, v in value.items()}
        if type(value) is dict:
            return items
        other = copy.copy(value)
        other.update(items)
        return other
    if isinstance(value, list):
        return type(value)([mapped(v, visit, path if alike else (*path, i), alike) for i, v in enumerate(value)])
    if isinstance(value, tuple):
        fields = getattr(value, "_fields", None)
        keys = fields if fields is not None else range(len(value))
        items_ = [mapped(v, visit, (*path, key), alike) for key, v in zip(keys, value, strict=True)]
        return type(value)(*items_) if fields is not None else type(value)(items_)
    return value


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
