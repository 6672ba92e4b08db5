"""A table with the small files of its runs beside it, so that it can be kept, sent, and made again without training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..report.stored import json_of, text_of
from .plan import Plan, Run, known
from .writing import RESULT, write

KEPT = ("summary.json", "config.yaml", "metrics.csv", "ranking.csv", "indicators.json")


def publish(source: Path, to: Path) -> str:
    """Copy the table in `source` to `to`, with those files of its runs from which it is made; returns it as Markdown.

    Raises:
        UserError: `source` holds no table, a run is gone, or `to` is taken by another table.
    """
    entries = _read(source)
    if (to / RESULT).is_file() and (other := _read(to)) and any(other[k] != entries[k] for k in ("name", "size")):
        raise UserError(f"{to} holds {other['name']}, size={other['size']}: give another folder, or remove it")
    if to.exists() and not (to / RESULT).is_file() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} is there and holds no table: give a new folder")
    runs = [_run(cell, Path()) for cell in entries["cells"]]
    if absent := [run.folder for run in runs if not (run.result / "summary.json").is_file()]:
        raise UserError(f"{absent[0]}, a run of this table, has no result; do the table's command again first")
    for run, cell in zip(runs, entries["cells"], strict=True):
        kept = to / "runs" / run.result.relative_to(run.folder.parent)
        kept.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            if (run.result / name).is_file():
                shutil.copyfile(run.result / name, kept / name)
        cell["folder"] = f"runs/{run.folder.name}"
    (to / RESULT).write_text(json.dumps(entries), encoding="utf-8")
    return rebuild(to)


def rebuild(folder: Path) -> str:
    """Make the tables and figures in `folder` again from the runs in it; returns the tables as Markdown.

    Raises:
        UserError: it holds no table of `publish`.
    """
    entries = _read(folder)
    runs = [_run(cell, folder) for cell in entries["cells"]]
    if odd := [run.folder for run in runs if not run.folder.resolve().is_relative_to(folder.resolve())]:
        raise UserError(f"{folder}: {RESULT} names {odd[0]}, which is outside of it")
    kept = entries["plan"]
    plan = Plan.read(entries["name"], entries["size"], only={key: kept[key] for key in ("models", "arms") if kept[key]})
    plan.notes = kept["notes"]
    return write(plan, runs, folder, entries["command"], {}, within=folder)


def _read(folder: Path) -> dict[str, Any]:
    try:
        entries: dict[str, Any] = json_of(text_of(folder / RESULT))
        assert all(key in entries for key in ("name", "size", "command", "cells", "plan"))
        assert entries["name"] in known()
    except (OSError, ValueError, AssertionError, TypeError):
        raise UserError(f"{folder}: {RESULT} is missing or not that of a table of scripts/reproduce.py") from None
    return entries


def _run(cell: dict[str, Any], root: Path) -> Run:
    return Run(cell["program"], tuple(cell["labels"].items()), cell["seed"], (), root / cell["folder"])
