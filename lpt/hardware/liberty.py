"""A Liberty file's statements, without a word of what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_COMMENT = re.compile(r"/\*.*?\*/|\\\r?\n", re.DOTALL)
_TOKEN = re.compile(r'"[^"]*"|[{}():;,"]|[^\s{}():;,"]+')
Group = list[tuple[str, list[str], Any]]  # statements: name, arguments, and what is in braces (None if nothing)


def statements(text: str) -> Group:
    """All that stands in a file.

    Raises:
        ValueError: it is cut off, or brackets or quotes do not pair; the message says which.
    """
    plain = _COMMENT.sub(" ", text)
    if "/*" in plain:
        raise ValueError("a comment is not closed")
    tokens = _TOKEN.findall(plain)
    if '"' in tokens:
        raise ValueError("a quote is not closed")
    return _group(iter(tokens), "")


def _group(tokens: Iterator[str], inside: str) -> Group:
    """Statements up to a closing brace: `name : value ;`, `name (arguments) ;` or `name (arguments) { ... }`."""
    found: Group = []
    name = before = ""
    for token in tokens:
        if token == ":":
            value, end = _until(tokens, ";}", "{", f"a semicolon is missing behind {name}")
            found.append((name, [" ".join(value)], None))
            token = end
        elif token == "(":
            arguments, token = _until(tokens, ")", "{;}", f"the bracket of {name} is not closed")
            found.append((name, [part for part in arguments if part != ","], None))
        elif token == "{":
            if before != ")":
                raise ValueError(f"a brace opens behind {before or 'nothing'}, where a bracket should close")
            found[-1] = (*found[-1][:2], _group(tokens, " ".join([name, *found[-1][1]])))
        elif token not in ";}":
            name = token.strip('"')
        if token == "}":
            if not inside:
                raise ValueError("a brace closes that none has opened")
            return found
        before = token
    if inside:
        raise ValueError(f"the file ends within {inside}")
    return found


def _until(tokens: Iterator[str], ends: str, wrong: str, said: str) -> tuple[list[str], str]:
    """Tokens up to one of `ends`, and that one."""
    found: list[str] = []
    for token in tokens:
        if token in ends:
            return found, token
        if token in wrong:
            break
        found.append(token.strip('"'))
    raise ValueError(said)


def inside(group: Group, name: str) -> Iterator[Group]:
    """What is in the braces of each statement of this name; its own arguments are the statement "name" in front."""
    for found, arguments, inner in group:
        if found == name and inner is not None:
            yield [("name", arguments, None), *inner]


def one(group: Group, name: str, default: str = "") -> str:
    """The first argument of the first statement of this name."""
    return next((arguments[0] for found, arguments, _ in group if found == name and arguments), default)
