"""Results as one HTML file that needs nothing else: no network, no server, no file beside it.

The page's text, style and behaviour are in `templates/`; everything that comes from files is escaped there.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .figure import Figure
from .interactive import plotly
from .sections import Section, read

TEMPLATES = Path(__file__).with_name("templates")


def build(folders: Sequence[Path], out: Path) -> list[str]:
    """Write the HTML file `out`, a section for each of `folders`; returns a line for everything that is left out.

    A folder holds the `result.json` of a reproduction or the `ranking.csv` of a search (`sections.found` finds them).
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    sections, warnings = [], []
    for folder in folders:
        try:
            sections.append(read(folder))
        except ValueError as error:
            warnings.append(str(error))
    plots = [plot for section in sections for plot in _plots(section)]
    warnings += [warning for section in sections for warning in section.warnings]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"cell": cell, "numeric": numeric, "missing": missing, "duration": duration}
    titles = [section.title for section in sections]
    names = [s.title if titles.count(s.title) == 1 else f"{s.title} ({Path(s.folder).name})" for s in sections]
    commits = sorted({section.git_commit for section in sections if section.git_commit})
    text = environment.get_template("page.html").render(
        sections=list(zip(_anchors(sections), names, sections, strict=True)), warnings=warnings, commits=commits,
        plots=_packed(json.dumps(plots, separators=(",", ":"), allow_nan=False)),
        library=_packed(get_plotlyjs()) if plots else "",
    )  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8", errors="backslashreplace")
    return warnings


def _plots(section: Section) -> list[dict[str, Any]]:
    """The figures of a section for plotly; those of which none can be made are left out of it, and told."""
    found, kept = [], []
    for figure in section.figures:
        try:
            found.append(plotly(Figure.of(figure.to_dict())))  # without what JSON cannot hold
            kept.append(figure)
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            why = " ".join(str(error).split())
            section.warnings.append(f"{section.folder}: the figure {figure.title} is left out: {why}")
    section.figures = kept
    return found


def _packed(text: str) -> str:
    """Text as the page carries it, packed; the browser unpacks it. So the plotting library takes 2 MB in place of 5."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def cell(value: Any) -> str:
    """The text of a table's cell."""
    if missing(value):
        return "not available"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def missing(value: Any) -> bool:
    return value is None or value != value or value == "not available"


def numeric(rows: Sequence[Sequence[Any]]) -> list[bool]:
    """For each column, whether there are numbers in it, perhaps with a spread, and nothing else."""
    number = re.compile(r"[-+\u2212]?\d[^a-zA-Z]*$")
    columns = [[cell(v) for v in column if not missing(v) and v not in ("", "-")] for column in zip(*rows, strict=True)]
    return [bool(column) and all(number.match(text) for text in column) for column in columns]


def duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _anchors(sections: Sequence[Section]) -> list[str]:
    """What each section's address ends with; no two are the same."""
    found: list[str] = []
    for section in sections:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{section.name}-{section.size}").strip("-")
        while name in found:
            name += "-again"
        found.append(name)
    return found
