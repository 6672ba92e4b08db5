"""The commands `scripts/compare.py` and `scripts/runs.py`, and the table at the end of a sweep."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..report import grouping, page
from ..report.comparing import Comparison, compare
from ..report.drawing import sheet
from ..report.languages import aligned, code, latex, markdown, marked, to_csv, to_dict
from ..report.runs import Result, differing, named, read
from ..report.sections import RESULT, Table
from ..report.tables import finding
from .files import replace
from .terminal import say

FEW = 8  # folders that fit in a command
OWN = ("by", "baseline", "metric", "out")
ORIGIN = ("git_commit", "versions", "hardware")


def compared(words: Sequence[str]) -> Path:
    """Do what `scripts/compare.py WORDS` says; returns the folder with everything.

    Raises:
        UserError: no such runs, or they cannot be compared.
    """
    own, places, conditions = _sorted(words)
    results = grouping.where([read(folder) for folder in grouping.find(places)], conditions)
    if not results:
        raise UserError(f"no run is left by {' '.join(conditions)}")
    groups = grouping.grouped(results)
    found = compare(groups, own.get("by"), own.get("baseline"), own.get("metric"))
    folder = Path(own["out"]).expanduser() if "out" in own else _folder(results, own)
    if folder.exists() and not (folder / RESULT).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"out={folder} is there and holds no comparison: give a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(found, results, folder, shlex.join(["python", "scripts/compare.py", *words]))
    except OSError as error:
        raise UserError(f"{error}: give a folder that can be written (out=DIR)") from error
    say(f"{text(found)}\neverything: {folder}/ (compare.md, .csv, .tex; curves.png, .svg; index.html)")
    return folder


def _sorted(words: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Own keys, folders, and conditions."""
    own, places, conditions = {}, [], []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in OWN:
            own[key] = value
        elif word == "where":
            continue
        elif grouping.CONDITION.fullmatch(word) and not Path(word).expanduser().exists():
            conditions.append(word)
        else:
            places.append(word)
    return own, places, conditions


def _folder(results: Sequence[Result], own: dict[str, str]) -> Path:
    """Beside the runs: the same comparison always has the same folder."""
    text = json.dumps([sorted(str(r.folder.resolve()) for r in results), sorted(own.items())])
    return results[0].folder.parent / f"compare-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def text(found: Comparison) -> str:
    """For a terminal."""
    notes = "".join(f"- {note}\n" for note in found.notes)
    return f"\n{found.table.title}\n{found.caption}\n\n{aligned(found.table)}{notes}"


def _write(found: Comparison, results: Sequence[Result], folder: Path, command: str) -> None:
    origin = {key: "; ".join(sorted({str(r.summary[key]) for r in results if r.summary.get(key)})) for key in ORIGIN}
    mixed = [f"these runs are of different {key}: {'; '.join(values)}" for key, values in differing(results).items()]
    notes = [*found.notes, *mixed]
    lines = "".join(f"- {line}\n" for line in [*map(marked, notes), f"command: {code(command)}"])
    head = f"# {marked(found.table.title)}\n\n{marked(found.caption)}\n\n"
    replace(folder / "compare.md", f"{head}{markdown(found.table)}\n{lines}")
    replace(folder / "compare.csv", to_csv(found.table))
    replace(folder / "compare.tex", latex(found.table, found.caption, folder.name))
    if found.figures:
        sheet(found.figures, folder, "curves", found.caption)
    entries = {
        "name": folder.name, "title": f"{found.table.title}: {found.caption.partition(' on ')[0]}",
        "rebuilds": f"{found.caption}.", "finding": finding([found.table]),
        "command": command, "runs": [str(r.folder) for r in results], **origin,
        "data": list(dict.fromkeys(str(r.summary.get("data")) for r in results)),
        "wall_seconds": sum(float(r.summary.get("wall_seconds") or 0) for r in results), "notes": notes,
        "tables": [to_dict(found.table)], "figures": [figure.to_dict() for figure in found.figures],
    }  # fmt: skip
    replace(folder / RESULT, json.dumps(entries, indent=1) + "\n")
    page.build([folder], folder / "index.html")


def after_sweep(folders: Sequence[Path]) -> str:
    """What a sweep prints at its end; empty for fewer than two runs."""
    results = [read(folder) for folder in dict.fromkeys(folders)]
    groups = grouping.grouped(results) if len(results) > 1 else []
    if not groups:
        return ""
    try:
        found = compare(groups)
    except UserError as error:
        found = compare(groups, against=False)
        found.notes.append(f"no differences: {error}")
    words = [str(folder) for folder in dict.fromkeys(folders)]
    more = f"python scripts/compare.py {shlex.join(words)}" if len(words) <= FEW else ""
    return f"{text(found)}\nwith curves and files: {more or 'python scripts/compare.py, and the folders of these runs'}"


def listed(words: Sequence[str]) -> str:
    """Do what `scripts/runs.py WORDS` says: a line for each run, with what differs.

    Raises:
        UserError: no such runs.
    """
    own, places, conditions = _sorted(words)
    if own:
        raise UserError(f"{next(iter(own))}= is of scripts/compare.py; here: folders, and conditions such as lr=0.1")
    every = [read(folder) for folder in grouping.find(places or ["outputs"])]
    results = grouping.where(every, conditions)
    if not results:
        return f"none of {len(every)} runs"
    groups = [grouping.Group(grouping.settings_of(r), [r]) for r in results]
    grouping.label(groups)
    columns = list(groups[0].labels)
    metrics = list(dict.fromkeys(r.metric for r in results if r.metric))
    rows = []
    for group, result in zip(groups, results, strict=True):
        values = [None if (v := result.value(m)) is None else f"{v:.4g}" for m in metrics]
        rows.append([*group.labels.values(), result.seed, result.status, *("" if v is None else v for v in values),
                     str(result.folder)])  # fmt: skip
    titles = [*columns, "seed", "status", *(named(m).partition(",")[0] for m in metrics), "folder"]
    count = f"{len(results)} of {len(every)} runs" if len(results) < len(every) else f"{len(results)} runs"
    return aligned(Table("", titles, rows)) + count
