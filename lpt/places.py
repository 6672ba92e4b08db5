"""Files and folders as people name them. Open to all floors, as `errors` is: what only reads folders needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import UserError


def place(path: Any, key: str = "path") -> Path:
    """The path that `path` means: ~ and ~NAME are home folders.

    Args:
        path: text, or a path.
        key: what the configuration calls it, for the message.

    Raises:
        UserError: it is a number, a list or the like, or a home folder that is not there.
    """
    if not isinstance(path, (str, Path)) or not str(path):
        kind = "empty" if path == "" else f"{type(path).__name__}, no text"
        raise UserError(f"{key}={path!r} is {kind}: give a path, in quotes: '{key}=\"...\"'")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{key}={path}: there is no such home folder ({error}); write the whole path") from error
