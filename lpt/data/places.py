"""Files and folders as people name them."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

from ..errors import UserError

# How a file begins that says how it is encoded; without a mark it is UTF-8.
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


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


def text_of(content: bytes) -> str:
    """A text file's content as text, its byte-order mark left out.

    Raises:
        UnicodeError: it is neither UTF-8 nor marked as UTF-16.
    """
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding)
