"""Whose mistake an argument is, and under which key: the annotations of what a `_target_` names say what is valid.

So there is no second list of keys and types beside the constructors: what they are annotated with is checked, and what
they refuse in their own words is told by the key that it came from.
"""

from __future__ import annotations

import collections.abc as abc
import inspect
import math
import os
import re
import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from ..errors import UserError

WORDS: dict[Any, str] = {
    bool: "true or false", int: "a whole number", float: "a finite number", str: "text", type(None): "null",
}  # fmt: skip
LISTS = (list, tuple, set, abc.Sequence, abc.Collection, abc.Iterable, abc.MutableSequence)


@dataclass(frozen=True)
class Arguments:
    """What a node of the configuration gives its target.

    Args:
        where: the node's name.
        target: what is called.
        values: by the names of the target's arguments.
        keys: argument -> the key that a user types for it, where it is not `where.argument`.
    """

    where: str
    target: Any
    values: Mapping[str, Any]
    keys: Mapping[str, str] = field(default_factory=dict)

    def key(self, name: str) -> str:
        return self.keys.get(name, f"{self.where}.{name}")

    def told(self, name: str) -> str:
        """An argument as it is typed: "optimizer.lr=0.1"."""
        return f"{self.key(name)}={_shown(self.values[name])}"

    def misfit(self) -> str | None:
        """The first argument that is not what its annotation says, if there is one."""
        hints = _hints(self.target)
        return next((name for name, v in self.values.items() if name in hints and not fits(v, hints[name])), None)

    def valid(self, name: str) -> str:
        """What was given for an argument, and what its annotation says."""
        return f"{self.told(name)}: give {' or '.join(_valid(_hints(self.target)[name])) or 'something else'}"

    def unknown(self, given: Collection[str]) -> str:
        """Which argument the target does not take, and those that it takes besides `given`; "" if it takes all."""
        parameters = _parameters(self.target)
        if not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return ""
        odd = [name for name in self.values if name not in parameters]
        valid = ", ".join(name for name in parameters if name not in given) or "none"
        return f"{self.key(odd[0])}: {self.target.__name__} takes no such argument; it takes {valid}" if odd else ""

    def by_key(self, error: Exception) -> str:
        """An error's text, with the key that it is about, as far as that can be told from the text.

        It says so (`width=0`, in its own words), or names one argument, or one's value. A UserError has words enough.
        """
        text = str(error)
        keys = [re.escape(self.key(name)) for name in self.values]
        if re.search(rf"(?<![\w.])({'|'.join([*keys, rf'{re.escape(self.where)}[.]'])})", text):
            return text
        names = "|".join(map(re.escape, self.values)) or "(?!)"
        if re.search(full := rf"(?<![\w.])({names})=", text):
            return re.sub(full, lambda m: f"{self.key(m[1])}=", text)
        if isinstance(error, UserError):
            return text
        named = [n for n in self.values if _place(n, text) >= 0 or _place(n.replace("_", " "), text) >= 0]
        places = {n: at for n, v in self.values.items() if (at := _of_value(v, text, n in named)) >= 0}
        first = [n for n, at in places.items() if at == min(places.values())]
        for found in ([n for n in first if n in named], first, named):
            if len({self.key(name) for name in found}) == 1:
                usual = getattr(_parameters(self.target).get(found[0]), "default", None)
                plain = isinstance(usual, int | float | str | tuple)
                return f"{self.told(found[0])}: {text}" + f" (its default is {_shown(usual)})" * plain
        return f"{self.where}: {text}"


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of a yaml is of this annotation. What no yaml spells by itself, such as objects, always is."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Annotated:
        return fits(value, parts[0])
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    base = origin or kind
    if not isinstance(base, type) or base in (Any, object):  # or a variable, or a name that nobody resolved
        return True
    if value is None or isinstance(value, bool):
        return base is type(value)
    if isinstance(value, int):
        return base in (int, float, complex)
    if isinstance(value, float):
        return base is float and math.isfinite(value)
    if isinstance(value, str):
        return base is str or issubclass(base, os.PathLike)
    if isinstance(value, (list, tuple)):
        return base in LISTS and _fits_each(value, base, parts)
    return True


def _fits_each(values: Any, base: type, parts: tuple[Any, ...]) -> bool:
    if not parts:
        return True
    if base is tuple and Ellipsis not in parts:
        return len(values) == len(parts) and all(map(fits, values, parts))
    return all(fits(value, parts[0]) for value in values)


def _valid(kind: Any) -> list[str]:
    """In words, what a yaml can say for this annotation."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        found = dict.fromkeys(word for part in parts for word in _valid(part))
        return [word for word in found if word != "null"] + ["null"] * ("null" in found)
    if origin is Annotated:
        return _valid(parts[0])
    if origin is Literal:
        return [f"one of {', '.join(map(_shown, parts))}"]
    base = origin or kind
    if base in WORDS:
        return [WORDS[base]]
    if base not in LISTS:
        return []
    if base is tuple and parts and Ellipsis not in parts:
        return [f"a list of {len(parts)}"]
    inside = " or ".join(_valid(parts[0])) if parts and not isinstance(parts[0], TypeVar) else ""
    return [f"a list, each {inside}" if inside else "a list"]


def _hints(target: Any) -> dict[str, Any]:
    """The annotations of a target's arguments; those with None for a default may be null."""
    called: Any = vars(target).get("__init__", target.__init__) if isinstance(target, type) else target  # type: ignore[misc]
    try:
        hints = get_type_hints(called)
    except Exception:  # names that only a type checker has, or what is written in C
        return {}
    parameters = _parameters(target)
    return {
        key: Union[kind, None] if key in parameters and parameters[key].default is None else kind  # noqa: UP007
        for key, kind in hints.items()
    }


def _parameters(target: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target).parameters
    except (ValueError, TypeError):  # of what is written in C
        return {}


def _of_value(value: Any, text: str, named: bool) -> int:
    """Where a text first says this value, or an element of it; -1: nowhere. One digit may stand for anything."""
    if isinstance(value, list):
        return max((_of_value(element, text, True) for element in value), default=-1)
    if value is None or isinstance(value, bool) or (value in range(10) and not named):
        return -1
    return _place(_shown(value), text)


def _place(word: str, text: str) -> int:
    """Where a word first stands in a text; -1: nowhere."""
    found = re.search(rf"(?<![\w.]){re.escape(word)}(?!\w|\.\w)", text)
    return found.start() if found else -1


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
