"""What a command prints: it must never be the reason why work that is done counts as failed."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from ..report.plain import lines


def show_anything() -> None:
    """Let stdout and stderr write what their encoding does not have as \\xfc or \\u4e2d, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Print a result; nothing happens if nobody reads it any more (`| head`), or if there is no room for it."""
    _print(text, sys.stdout)


def tell(text: str) -> None:
    """The same for a line about the work, on stderr."""
    _print(text, sys.stderr)


def settle() -> None:
    """Let what others printed go out, or nowhere if nobody reads it."""
    _reach(sys.stdout, "")


def _print(text: str, stream: TextIO) -> None:
    _reach(stream, lines(text) + "\n")  # it may be from a run of others, and is no command for a terminal


def _reach(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:  # or the interpreter tries again at its end
            os.dup2(nowhere.fileno(), stream.fileno())
