"""What metrics.csv holds, read without Lightning."""

from __future__ import annotations

from pathlib import Path

from ..report.stored import rows_of, text_of


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv` as text, "" where nothing was logged; a half-written last line is left out."""
    if not path.is_file():
        return []
    text = text_of(path)
    return list(rows_of(text[: text.rfind("\n") + 1]))


def column(rows: list[dict[str, str]], name: str, after: float = 0) -> list[float]:
    """The values of one column at the steps beyond `after`, where it was logged."""
    return [float(row[name]) for row in rows if row.get(name) and float(row["step"]) > after]
