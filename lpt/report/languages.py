"""A table in other languages: for a terminal, Markdown, CSV, LaTeX and JSON.

A cell is text, a number, None where there is nothing, or an object that writes itself with `str` and has numbers in
`parts` (`tables.Spread`, `tables.Difference`). Text comes from runs, which may be anybody's: whatever stands in it, it
stays one line of text, and neither a command for a terminal nor a tag, a link, a macro or a formula.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from .plain import line
from .sections import Table

ABSENT = "not available"
MARK = "†"


def text(value: Any) -> str:
    """A cell, in a line; None is "not available"."""
    if value is None:
        return ABSENT
    return f"{value:.4g}" if isinstance(value, float) else line(str(value))


def to_dict(table: Table) -> dict[str, Any]:
    """For JSON: cells as text or plain numbers."""
    rows = [[str(v) if hasattr(v, "parts") else v for v in row] for row in table.rows]
    return {"title": table.title, "columns": table.columns, "rows": rows}


def _numeric(table: Table) -> list[bool]:
    """For each column, whether its cells are numbers, as far as there are any."""
    return [all(isinstance(row[i], (int, float, type(None))) for row in table.rows) for i in range(len(table.columns))]


def aligned(table: Table) -> str:
    """For a terminal: columns side by side, numbers to the right."""
    cells = [[text(v) for v in row] for row in [table.columns, *table.rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    right = [
        all(isinstance(row[i], (int, float)) or row[i] in (None, "") for row in table.rows) for i in range(len(widths))
    ]
    lines = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]]) + "\n"


def marked(value: Any) -> str:
    """A cell in Markdown: no tag, no link, no end of its column; what only looks odd (`_`, `*`) is left as it is."""
    found = re.sub(r"\\(?=[^\w\s]|$)", r"\\\\", text(value))
    found = re.sub(r"&(?=#?\w+;)", "&amp;", found)
    found = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", found)
    return re.sub(r"\](?=[(:\[])", r"\\]", found).replace("|", r"\|")


def code(value: str) -> str:
    """Text as code in Markdown, between more backticks than it has in a row."""
    ticks = "`" * (max([0, *map(len, re.findall("`+", value))]) + 1)
    pad = " " if ticks != "`" else ""
    return f"{ticks}{pad}{line(value)}{pad}{ticks}"


def markdown(table: Table) -> str:
    rows = [list(map(marked, row)) for row in [table.columns, *table.rows]]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(table.columns), *lines[1:]]) + "\n"


def to_csv(table: Table) -> str:
    """Each number in a column of its own, in full: "mean" and "SD" of a spread, "low" and "high" of a difference."""
    wide: list[list[Any]] = [[] for _ in range(len(table.rows) + 1)]
    for index, name in enumerate(table.columns):
        cells = [row[index] for row in table.rows]
        parts = list(dict.fromkeys(part for cell in cells for part in getattr(cell, "parts", {})))
        for part in parts or [None]:
            plain = name.removesuffix(" [95 %]").removesuffix("± SD").removesuffix("mean ").strip()
            wide[0].append(name if part is None else f"{plain} {part}".strip())
            for row, cell in zip(wide[1:], cells, strict=True):
                found = cell if part is None else getattr(cell, "parts", {}).get(part)
                row.append("" if found is None else found)
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([[_no_formula(cell) for cell in row] for row in wide])
    return out.getvalue()


def _no_formula(cell: Any) -> Any:
    """A cell of a CSV: a spreadsheet computes what begins with one of = + - @, unless there is a quote before it."""
    if not isinstance(cell, str):
        return cell
    cell = line(cell)
    number = re.fullmatch(r"[-+]?[\d.,]*(e[-+]?\d+)?", cell, re.IGNORECASE)
    return f"'{cell}" if cell.lstrip()[:1] in ("=", "+", "-", "@") and not number else cell


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", MARK: r"$\dagger$", "<": r"$<$", ">": r"$>$",
    "|": r"$|$",
}  # fmt: skip


def escaped(value: Any) -> str:
    """A cell in LaTeX."""
    found = "".join(_LATEX.get(c, c) for c in text(value))
    # Behind the end of a row these would be its options.
    return re.sub(r"^(\s*)([\[*])", r"\1{\2}", found)


def latex(table: Table, caption: str = "", label: str = "") -> str:
    """A table for `\\input`; it needs the package booktabs.

    Args:
        caption: must say what the numbers are of; the table's title stands before it.
        label: for `\\ref`.
    """

    def cells(row: Sequence[Any]) -> str:
        return "    " + " & ".join(map(escaped, row)) + r" \\"

    columns = [
        "r" if all(isinstance(row[i], (int, float)) for row in table.rows) else "l" for i in range(len(table.columns))
    ]
    label = re.sub(r"[^\w.:+-]", "-", label, flags=re.ASCII)
    told = ". ".join(escaped(part.rstrip(".")) for part in (table.title, caption) if part)
    return "\n".join([
        r"% \usepackage{booktabs}", r"\begin{table}", r"  \centering", rf"  \caption{{{told}.}}",
        *([rf"  \label{{tab:{label}}}"] if label else []), rf"  \begin{{tabular}}{{{''.join(columns)}}}",
        r"    \toprule", cells(table.columns), r"    \midrule", *map(cells, table.rows), r"    \bottomrule",
        r"  \end{tabular}", r"\end{table}",
    ]) + "\n"  # fmt: skip
