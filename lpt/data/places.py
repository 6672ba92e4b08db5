"""Text files as people have them."""

from __future__ import annotations

import codecs

# How a file begins that says how it is encoded; without a mark it is UTF-8.
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def text_of(content: bytes) -> str:
    """A text file's content as text, its byte-order mark left out.

    Raises:
        UnicodeError: it is neither UTF-8 nor marked as UTF-16.
    """
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    return content.decode(encoding)
