"""What metrics.csv holds, read without Lightning."""

from __future__ import annotations

import csv
import io
from pathlib import Path


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv` as text, "" where nothing was logged; a half-written last line is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])))


def column(rows: list[dict[str, str]], name: str, after: float = 0) -> list[float]:
    """The values of one column at the steps beyond `after`, where it was logged."""
    return [float(row[name]) for row in rows if row.get(name) and float(row["step"]) > after]
