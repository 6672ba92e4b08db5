"""Text that runs wrote, which may be anybody's, as text and nothing else: no command for a terminal, no formula.

What it must not be in Markdown, LaTeX and CSV is kept out by `languages`, in HTML by the page's templates.
"""

from __future__ import annotations

import re

# Controls of terminals, ends of lines, marks that let text run the other way, and halves of characters.
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def line(value: str) -> str:
    """Text in a line: spaces for ends of lines and tabs, `\\x1b` and the like for other controls."""
    return _CONTROLS.sub(lambda m: " " if m[0] in "\n\r\t" else m[0].encode("unicode_escape").decode(), value)


def lines(value: str) -> str:
    """The same, and lines stay lines."""
    return "\n".join(map(line, value.split("\n")))


def drawn(value: str) -> str:
    """Lines for matplotlib, which takes what is between two dollars for mathematics."""
    return lines(value).replace("$", r"\$")
