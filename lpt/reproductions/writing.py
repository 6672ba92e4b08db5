"""One name from the command to its result: plan, runs, tables, figures, `result.json` for the page."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_method

from ..report import languages
from ..report.drawing import draw
from ..report.runs import Result, differing, read
from ..report.tables import finding
from ..runs import summary
from ..runs.folder import replace
from .plan import Plan, Run

RESULT = "result.json"
# Where a result comes from: what the runs say, or what this process is, where there is no run.
ORIGIN = {"git_commit": summary.git_commit, "versions": summary.versions, "hardware": summary.hardware}


def write(
    plan: Plan, runs: Sequence[Run], folder: Path, command: str, failed: dict[Path, str], within: Path | None = None
) -> str:
    """Make the tables and figures of `runs` in `folder`; returns the tables as Markdown.

    Files: tables as .md, .csv and .tex; figures as .png and .svg; result.json for the page and for `archive`.

    Args:
        within: name the runs' folders relative to this one.
    """

    def place(path: Path) -> str:
        return str(path.relative_to(within) if within else path)

    made, figures, notes = get_method(plan.make)(plan, runs)
    results = [read(run.result) for run in runs]
    notes = [*plan.notes, *notes, *_told(results, failed)]
    folder.mkdir(parents=True, exist_ok=True)
    for index, table in enumerate(made, 1):
        stem = folder / (plan.name if index == 1 else f"{plan.name}-{index}")
        replace(stem.with_name(stem.name + ".csv"), languages.to_csv(table))
        caption = f"Size {plan.size}: " + "; ".join(f"{model}: {of['data']}" for model, of in plan.models.items())
        replace(stem.with_name(stem.name + ".tex"), languages.latex(table, caption, stem.name))
    text = "\n".join([f"## {languages.marked(table.title)}\n\n{languages.markdown(table)}" for table in made])
    origin = {key: _of(results, key, here) for key, here in ORIGIN.items()}
    told = [*notes, *(f"{key.replace('git_', '')}: {value}" for key, value in origin.items())]
    text = f"# {plan.title} ({plan.size})\n\n{text}\n" + "".join(f"- {languages.marked(note)}\n" for note in told)
    text += f"- command: {languages.code(command)}\n"
    replace(folder / f"{plan.name}.md", text)
    for figure in figures:
        draw(figure, folder)
    seconds = sum(float(r.summary.get("wall_seconds") or 0) for r in results)
    entries: dict[str, Any] = {
        "name": plan.name, "title": plan.title, "size": plan.size, "rebuilds": plan.rebuilds, "claim": plan.claim,
        "command": command, "finding": finding(made),
        "data": list(dict.fromkeys(model["data"] for model in plan.models.values())),
        "runs": sorted({place(run.result) for run in runs}),
        "plan": {"models": list(plan.models), "arms": list(plan.arms), "notes": plan.notes},
        "cells": [{"program": run.program, "labels": run.label, "seed": run.seed, "folder": place(run.folder)}
                  for run in runs],
        **origin, "wall_seconds": seconds, "notes": notes,
        "tables": [languages.to_dict(table) for table in made], "figures": [figure.to_dict() for figure in figures],
    }  # fmt: skip
    replace(folder / RESULT, json.dumps(entries, indent=1) + "\n")
    return text


def _told(results: Sequence[Result], failed: dict[Path, str]) -> list[str]:
    mixed = [f"these runs are of different {key}: {'; '.join(values)}" for key, values in differing(results).items()]
    return mixed + [f"failed: {path.name}: {why}" for path, why in failed.items()]


def _of(results: Sequence[Result], key: str, here: Callable[[], str | None]) -> str:
    """What the runs say, each once; of this process if there is no run."""
    return "; ".join(sorted({str(r.summary[key]) for r in results if r.summary.get(key)})) or here() or ""


def report_failures(failed: dict[Path, str]) -> None:
    """On stderr, at the end."""
    if failed:
        print(f"{len(failed)} runs failed; the same command tries them again:", file=sys.stderr)
    for path, why in failed.items():
        print(f"  {path.name}: {why}", file=sys.stderr)
