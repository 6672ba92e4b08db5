"""Folders of runs, put together: seeds of one configuration in one group, and each group named by what differs."""

from __future__ import annotations

import glob
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from .runs import FREE, NOT_THE_DATA, Result, flat, read

# What summary.json calls the choice of a group of settings.
CHOICES = ("recipe", "model", "data", "format", "products", "weights")
# What a recipe chooses; what a run without one is called by, where others have one.
OF_RECIPE = ("format", "products", "weights")
ABSENT = "none"


@dataclass
class Group:
    """Runs that differ in their seeds only. `labels` are the settings in which the groups differ, short."""

    settings: dict[str, Any]
    results: list[Result]
    labels: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The labels in one line: "log4, lr=0.1"."""
        return ", ".join(v if k in CHOICES else f"{k.rpartition('.')[2]}={v}" for k, v in self.labels.items())

    def told(self, by: str | None = None) -> str:
        """The labels, or that of the setting `by`, as they are typed: "log4, optimizer.lr=0.1"."""
        return ", ".join(v if k in CHOICES else f"{k}={v}" for k, v in self.labels.items() if by in (None, k))


def find(words: Iterable[str]) -> list[Path]:
    """The folders of runs that `words` mean: such folders, folders that hold some (a sweep's), or patterns of them.

    Raises:
        UserError: a word means none.
    """
    found: dict[Path, None] = {}
    for word in words:
        spelt = Path(word).expanduser()
        places = [spelt] if spelt.exists() else [Path(path) for path in sorted(glob.glob(str(spelt)))]
        runs = [run for each in places for run in ([each] if is_run(each) else _inside(each))]
        if not runs:
            raise UserError(
                f"{word}: no run is there; give folders of runs (outputs/RUN), a folder that holds some, or a pattern"
            )
        found |= dict.fromkeys(runs)
    return list(found)


def is_run(folder: Path) -> bool:
    """Whether `folder` was left by train.py; a search leaves no metrics.csv."""
    return all((folder / name).is_file() for name in ("summary.json", "config.yaml", "metrics.csv"))


def _inside(place: Path) -> list[Path]:
    return [
        run for pattern in ("*", "runs/*", "reproduce/runs/*") for run in sorted(place.glob(pattern)) if is_run(run)
    ]


def settings_of(result: Result, before: frozenset[Path] = frozenset()) -> dict[str, Any]:
    """What decides the run, flat, less its seed. Of the run whose weights it starts from, the same."""
    kept = {key: value for key, value in result.config.items() if key not in FREE}
    found = {key: value for key, value in flat(kept).items() if key not in NOT_THE_DATA}
    if origin := result.config.get("init_from"):
        folder = _run_at(origin)
        start = re.sub(r"-seed\d+-[0-9a-f]{8}$", "", folder.name if folder else str(origin))
        found |= {"init_from": start}
        if folder and folder.resolve() not in before:  # runs do not start from each other in a circle
            of = settings_of(read(folder), before | {folder.resolve()})
            found |= {f"init_from.{key}": value for key, value in of.items()}
    return found


def _run_at(origin: Any) -> Path | None:
    """The run of which `init_from` names a file or the folder."""
    path = Path(str(origin))
    try:
        return next((p for p in (path, *path.parents) if is_run(p)), None)
    except OSError:  # too long for a path
        return None


def grouped(results: Sequence[Result]) -> list[Group]:
    """The groups, in the order in which they first come, each with its labels.

    Raises:
        UserError: two runs have the same settings and seed.
    """
    groups: dict[str, Group] = {}
    for result in results:
        settings = settings_of(result)
        groups.setdefault(repr(sorted(settings.items())), Group(settings, [])).results.append(result)
    for group in groups.values():
        seen: dict[int, Result] = {}
        for result in group.results:
            if (other := seen.setdefault(result.seed, result)) is not result:
                raise UserError(f"{other.folder} and {result.folder} are the same run twice: leave one out")
        group.results.sort(key=lambda result: result.seed)
    found = list(groups.values())
    label(found)
    return found


def label(groups: Sequence[Group]) -> None:
    """Set the labels of `groups` to the settings in which they differ."""
    for group, labels in zip(groups, _labels(groups), strict=True):
        group.labels = labels


def _labels(groups: Sequence[Group]) -> list[dict[str, str]]:
    """For each group, its values of the settings that differ; where a choice (`weights`) decides several, it alone."""
    keys = dict.fromkeys(key for group in groups for key in group.settings)
    odd = [key for key in keys if len({repr(group.settings.get(key)) for group in groups}) > 1]
    columns: dict[str, list[str]] = {}
    if any("recipe" in group.results[0].summary for group in groups) and len(set(names := _recipes(groups))) > 1:
        columns["recipe"] = names
        odd = [k for k in odd if not (_part(k) in OF_RECIPE and _follows(names, [g.settings.get(k) for g in groups]))]
    for part in dict.fromkeys(_part(key) for key in odd):
        own = [key for key in odd if _part(key) == part]
        chosen = [_choice(part, group) for group in groups]
        if several := len(set(chosen)) > 1:
            columns[part] = chosen
        decided = {key for key in own if several and _follows(chosen, [g.settings.get(key) for g in groups])}
        for key in own:
            if key not in decided and key != part:
                columns[key] = [spelt(group.settings.get(key)) for group in groups]
    if not columns:
        columns = {part: [_choice(part, group) for group in groups] for part in ("model", "format", "weights")}
    order = [*(part for part in CHOICES if part in columns), *(key for key in columns if key not in CHOICES)]
    return [{key: columns[key][i] for key in order} for i in range(len(groups))]


def _part(key: str) -> str:
    return key.split(".")[0]


def _recipes(groups: Sequence[Group]) -> list[str]:
    """The recipe of each group; of one without, its format, products, weights and remedy: "fp32", "fp134+log4"."""
    every = [group.results[0].summary for group in groups]
    parts = [dict.fromkeys(str(s[key]) for key in (*OF_RECIPE, "remedy") if s.get(key)) for s in every]
    return [str(s.get("recipe") or "+".join(own) or ABSENT) for s, own in zip(every, parts, strict=True)]


def _choice(part: str, group: Group) -> str:
    """What people call a group's choice of settings: by summary.json, by the class that it names, or by its parts."""
    if part in CHOICES:
        return str(group.results[0].summary.get(part, ABSENT))
    if not {part, f"{part}._target_"} & group.settings.keys():  # indicators, of which each has a class
        inside = [key.split(".")[1] for key in group.settings if key.startswith(f"{part}.") and key.count(".") > 1]
        return ", ".join(dict.fromkeys(inside)) or ABSENT
    target = group.settings.get(part, group.settings.get(f"{part}._target_"))
    return spelt(target).rpartition(".")[2] if isinstance(target, str) else spelt(target)


def _follows(of: Sequence[str], values: Sequence[Any]) -> bool:
    """Whether equal entries of `of` always have equal values."""
    known: dict[str, Any] = {}
    return all(repr(known.setdefault(name, value)) == repr(value) for name, value in zip(of, values, strict=True))


def spelt(value: Any) -> str:
    """A setting as it is shown."""
    if isinstance(value, float):
        return f"{value:g}"
    return ABSENT if value is None else str(value).lower() if isinstance(value, bool) else str(value)


# -- choosing ------------------------------------------------------------------------------------------------------

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "=": operator.eq, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
CONDITION = re.compile(r"([\w./@]+?)(!=|<=|>=|=|<|>)(.*)", re.DOTALL)


def where(results: Sequence[Result], conditions: Sequence[str]) -> list[Result]:
    """The runs that fulfil every condition (`optimizer.lr=0.1`, `val/accuracy>0.9`, `status!=finished`).

    A key is one of summary.json or of the settings; of the latter its end (`lr`) will do.

    Raises:
        UserError: a condition is none, or no run has its key.
    """
    kept = [(result, flat(result.config) | result.summary) for result in results]
    for condition in conditions:
        read_ = CONDITION.fullmatch(condition)
        if not read_:
            raise UserError(f"{condition}: write KEY=VALUE, or with != < > <= >= in place of =")
        key, sign, wanted = read_.groups()
        known = {_full(key, entries) for _, entries in kept} - {None} if kept else {key}
        if not known:
            raise UserError(f"{condition}: none of the {len(kept)} runs has the key {key}")
        kept = [
            (r, entries) for r, entries in kept if (name := _full(key, entries)) and _holds(entries[name], sign, wanted)
        ]
    return [result for result, _ in kept]


def _full(key: str, entries: Mapping[str, Any]) -> str | None:
    if key in entries:
        return key
    return next((name for name in entries if name.endswith(f".{key}")), None)


def _holds(value: Any, sign: str, wanted: str) -> bool:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return COMPARE[sign](float(value), float(wanted))
        except ValueError:
            return sign == "!="
    if sign not in ("=", "!="):
        return False
    return COMPARE[sign](spelt(value), ABSENT if value is None and wanted == "null" else wanted)
