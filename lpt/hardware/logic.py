"""Boolean functions as Liberty writes them, made into Python: `!A`, `A'`, `A*B`, `A&B`, `A B`, `A+B`, `A|B`, `A^B`."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

_TOKEN = re.compile(r"[A-Za-z_][\w\[\]]*|[01]|[!'*&+|^()]|\S")  # (the last: what is refused)


@cache
def compiled(function: str, names: tuple[str, ...]) -> Callable[..., Any]:
    """A function of as many arguments as `names`: integers or arrays of integers, of which each bit is one case.

    Raises:
        ValueError: `function` cannot be read, or names something else.
    """
    tokens = _TOKEN.findall(function)
    expression, rest = _or(tokens, {name: f"x{i}" for i, name in enumerate(names)})
    if rest:
        raise ValueError(f"{function!r}: {rest[0]!r} is not expected there")
    arguments = ", ".join(f"x{i}" for i in range(len(names)))
    made: Callable[..., Any] = eval(f"lambda {arguments}: {expression}", {})
    return made


def table(function: str, names: tuple[str, ...]) -> int:
    """The truth table: bit i is the value where bit j of i is the value of name j."""
    made, found = compiled(function, names), 0
    for i in range(2 ** len(names)):
        found |= (made(*((i >> j) & 1 for j in range(len(names)))) & 1) << i
    return found


def _or(tokens: list[str], names: dict[str, str]) -> tuple[str, list[str]]:
    left, tokens = _and(tokens, names)
    while tokens and tokens[0] in "+|":
        right, tokens = _and(tokens[1:], names)
        left = f"({left} | {right})"
    return left, tokens


def _and(tokens: list[str], names: dict[str, str]) -> tuple[str, list[str]]:
    left, tokens = _xor(tokens, names)
    while tokens and tokens[0] not in "+|)":
        right, tokens = _xor(tokens[1:] if tokens[0] in "*&" else tokens, names)
        left = f"({left} & {right})"
    return left, tokens


def _xor(tokens: list[str], names: dict[str, str]) -> tuple[str, list[str]]:
    """Which binds closer than AND in Liberty."""
    left, tokens = _not(tokens, names)
    while tokens and tokens[0] == "^":
        right, tokens = _not(tokens[1:], names)
        left = f"({left} ^ {right})"
    return left, tokens


def _not(tokens: list[str], names: dict[str, str]) -> tuple[str, list[str]]:
    if not tokens:
        raise ValueError("a function ends early")
    head, tokens = tokens[0], tokens[1:]
    if head == "!":
        inner, tokens = _not(tokens, names)
        return f"~{inner}", tokens
    if head == "(":
        inner, tokens = _or(tokens, names)
        if not tokens or tokens[0] != ")":
            raise ValueError("a bracket of a function is not closed")
        tokens = tokens[1:]
    elif head in names:
        inner = names[head]
    elif head in "01" and names:  # of as many bits as the arguments have
        inner = "(x0 ^ x0)" if head == "0" else "~(x0 ^ x0)"
    else:
        raise ValueError(f"{head!r} is not one of {', '.join(names)}")
    while tokens and tokens[0] == "'":
        inner, tokens = f"(~{inner})", tokens[1:]
    return inner, tokens
