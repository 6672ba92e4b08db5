"""All ratios of a benchmark in one chart: a dot a work, on a logarithmic axis, and a mark where its target lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..report.drawing import draw as drawn
from ..report.figure import Axis, Figure, Series
from .measuring import Rows

OURS, MISSED, OTHERS, TARGET = "lpt", "lpt, target missed", "others", "target (at most)"


def draw(results: Mapping[str, Any], sections: Mapping[str, str], path: Path) -> list[Path]:
    """Draw the `sections` (name: title) that `results` has, as PATH.png and PATH.svg; returns both."""
    parts: dict[str, Rows] = {title: results[name] for name, title in sections.items() if results.get(name)}
    series = [one for title, rows in parts.items() for one in _series(title, _shown(rows))]
    ratio = Axis("ratio to the work that a panel's title names (bars: low to high)", log=True)
    return drawn(Figure(path.stem, "", "dots", Axis(""), ratio, series), path.parent)


def _shown(rows: Rows) -> Rows:
    """Without the works that the others are compared with, whose ratio is 1, and without parts of steps."""
    return {name: row for name, row in rows.items() if row["base"] != name and "probe" not in name}


def _series(title: str, rows: Rows) -> list[Series]:
    """Each kind over all rows, so that kinds have the same colours and rows their order; None where it has nothing."""
    other_names = any(name.startswith("lpt ") for name in rows)  # where peers are, ours say so

    def kind(name: str, row: Mapping[str, Any]) -> str:
        if name.startswith("fp32") or (other_names and not name.startswith("lpt ")):
            return OTHERS
        return MISSED if row.get("target") is not None and float(row["ratio"]) > float(row["target"]) else OURS

    names = list(rows)
    found = []
    for label in (OURS, MISSED, OTHERS):
        own: list[Mapping[str, Any]] = [row if kind(name, row) == label else {} for name, row in rows.items()]
        values, low, high = (_column(own, key) for key in ("ratio", "low", "high"))
        found.append(Series(label, names, values, low, high, choice=title))
    return [*found, Series(TARGET, names, _column(list(rows.values()), "target"), choice=title, joined=True)]


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> list[float | None]:
    return [None if row.get(key) is None else float(row[key]) for row in rows]
