"""The sections of the page: what `reproduce` and `search_formats` left in their folders."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .figure import Figure
from .ranking import figures as ranking_figures
from .ranking import is_list
from .slots import FILE as SLOTS
from .stored import json_of, rows_of, text_of

RESULT = "result.json"
RANKING = "ranking.csv"
EMPTY: dict[type, Any] = {str: "", list: [], float: None}
# The entries of result.json and what they are; one that is missing or null is empty, save name and title.
ENTRIES: dict[str, type] = {
    "name": str, "title": str, "size": str, "rebuilds": str, "claim": str, "finding": str, "command": str,
    "data": list, "runs": list,
    "git_commit": str, "versions": str, "hardware": str, "wall_seconds": float, "notes": list, "tables": list,
    "figures": list,
}  # fmt: skip


@dataclass
class Table:
    """Rows of cells: text, numbers, or None where there is nothing."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    finding: str = ""  # what it says, in a line, where its maker knows


@dataclass
class Section:
    """One result as it is shown. `warnings` tells what of it could not be."""

    name: str
    title: str
    folder: str
    size: str = ""
    rebuilds: str = ""
    claim: str = ""
    finding: str = ""
    command: str = ""
    data: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    git_commit: str = ""
    versions: str = ""
    hardware: str = ""
    wall_seconds: float | None = None
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def found(outputs: Path) -> list[Path]:
    """The folders that `read` reads in `outputs` (outputs/ or outputs/reproduce/): reproductions, then searches."""
    patterns = (f"*/{RESULT}", f"reproduce/*/{RESULT}", f"search-*/{RANKING}")
    return [path.parent for pattern in patterns for path in sorted(outputs.glob(pattern))]


def read(folder: Path) -> Section:
    """The section of a folder with a result.json or a ranking.csv.

    Raises:
        ValueError: the folder has neither, or it cannot be read; the message says why in a line.
    """
    try:
        if (folder / RESULT).is_file():
            return _result(json_of(text_of(folder / RESULT)), folder)
        if (folder / RANKING).is_file():
            return _search(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: left out, since it cannot be read: {_line(error)}") from None
    raise ValueError(f"{folder}: left out, since it holds neither {RESULT} nor {RANKING}")


def _result(entries: Any, folder: Path) -> Section:
    if not isinstance(entries, dict) or not all(entries.get(key) for key in ("name", "title")):
        raise ValueError(f"{RESULT} is not that of a reproduction: it has no name and title")
    values: dict[str, Any] = {}
    if isinstance(entries.get("versions"), dict):
        entries["versions"] = ", ".join(f"{name} {version}" for name, version in entries["versions"].items())
    for key, kind in ENTRIES.items():
        value = entries.get(key)
        if value is not None and not isinstance(value, (int, float) if kind is float else kind):
            raise ValueError(f"{key} in {RESULT} is a {type(value).__name__}, not a {kind.__name__}")
        values[key] = EMPTY[kind] if value is None else value
    section = Section(**{**values, "folder": str(folder), "tables": [], "figures": []})
    for key, make in (("tables", _table), ("figures", Figure.of)):
        for one in values[key]:
            try:
                getattr(section, key).append(make(one))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                title = one.get("title") if isinstance(one, dict) else None
                section.warnings.append(f"{folder}: one of its {key} ({title}) is left out: {_line(error)}")
    return section


def _table(entries: Any) -> Table:
    seen: dict[str, int] = {}
    columns = list(entries["columns"])
    for i, name in enumerate(columns):  # no two columns of one name
        seen[name] = seen.get(name, 0) + 1
        columns[i] = name if seen[name] == 1 or not name else f"{name} ({seen[name]})"
    table = Table(entries.get("title", ""), columns, [list(row) for row in entries["rows"]])
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"a row of {len(row)} cells under {len(table.columns)} columns")
    return table


def _search(folder: Path) -> Section:
    records = list(rows_of(text_of(folder / RANKING)))
    for record in records:
        for key, value in record.items():
            if key not in ("name", "valid_bits", "top", "pareto"):
                record[key] = float(value) if value else None
        record |= {key: record[key] == "True" for key in ("top", "pareto")}
    summary = _json(folder / "summary.json")
    text = (folder / "ranking.txt").read_text(encoding="utf-8") if (folder / "ranking.txt").is_file() else ""
    settings = text.partition("\n\n")[0].splitlines()
    costs = summary.get("costs") or _model()
    notes = [*settings, f"costs are {costs}"]
    if summary.get("confidence") is not None and summary.get("evaluations"):
        notes.append(
            f"{summary['evaluations']:,} evaluations of a format on a batch, of {summary['exhaustive_evaluations']:,}; "
            f"the first {len(summary['top'])} are right with {summary['confidence']:.1%} confidence, up to formats "
            "closer than 0.02 degrees or their paired standard error"
        )
    columns = ["rank", "format", "valid bits per octave", "bits", "error E", "activation A", "both", "batches",
               "cost", ""]  # fmt: skip
    rows = [
        [int(r["rank"]), "" if is_list(r) else r["name"], r["valid_bits"], float(f"{r['bits']:.4g}"),
         *(f"{r[k]:.3f} ± {r[f'{k}_se']:.3f}" for k in ("error", "activation", "both")), int(r["batches"]),
         r["cost"], "not dominated" if r["pareto"] else ""]
        for r in records
    ]  # fmt: skip
    more = _json(folder / SLOTS)
    kinds = ("both", "error", "activation", *(["whole"] if "whole" in records[0] else []))
    title = summary.get("title", folder.name)
    ranks = [f"{r['valid_bits'] if is_list(r) else r['name']}" for r in records if r["rank"] == 1]
    ranks += [f"{r['name']} is rank {r['rank']:.0f}" for r in records if r["name"] in ("fp134", "fp143", "int8")]
    return Section(
        name=folder.name, title=f"Search: {title}", folder=str(folder), command=summary.get("command", ""),
        finding=f"best: {'; '.join(ranks)}",
        rebuilds=f"A ranking of {len(records)} formats by the angle by which rounding turns the gradient of a trained "
        "model. Nothing is trained in any of them.",
        git_commit=summary.get("git_commit") or "", hardware=summary.get("hardware") or "",
        versions=summary.get("versions") or "",
        wall_seconds=summary.get("wall_seconds"), notes=notes,
        tables=[*map(_table, more.get("tables", [])), Table("From best to worst; angles in degrees", columns, rows)],
        figures=[*ranking_figures(records, kinds, costs), *map(Figure.of, more.get("figures", []))],
    )  # fmt: skip


def _model() -> str:
    """What costs are where a search does not say it, which an older version made."""
    from ..search.ranking import MODEL  # loads torch, which the rest of the page does without

    return MODEL


def _json(path: Path) -> dict[str, Any]:
    entries = json_of(text_of(path)) if path.is_file() else {}
    return entries if isinstance(entries, dict) else {}


def _line(error: Exception) -> str:
    text = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return " ".join(text.split())
