"""Runs of one's own, compared: a table with differences paired over seeds, and curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UserError
from .figure import Axis, Figure, Series
from .grouping import Group
from .languages import MARK
from .runs import LESS_IS_BETTER, PERCENT, Result, check_comparable, named
from .sections import Table
from .tables import Row, Spread, difference, seeds

MOST = 10  # configurations that are drawn
CURVES = ("train/loss", "flip_frequency")


@dataclass
class Comparison:
    """What was compared: `metric` of the rows, each against that of its peers whose `by` is `baseline`."""

    table: Table
    figures: list[Figure]
    notes: list[str]
    caption: str


def compare(
    groups: Sequence[Group], by: str | None = None, baseline: str | None = None, metric: str | None = None,
    against: bool = True,
) -> Comparison:  # fmt: skip
    """The table of `groups`, its figures and notes.

    Args:
        by: the setting that is compared, all others equal; None compares each group with one of them.
        baseline: a value of `by` (or a group's name) that the others are compared with; None: fp32, or the first.
        metric: a figure of summary.json; None: the task's own.
        against: False leaves the differences out, for groups that cannot be compared.

    Raises:
        UserError: there is no such setting, value or metric, or the runs are of different data, models or lengths.
    """
    by = _setting(groups, by)
    rows = [Row(dict(group.labels), metric or _metric(group), group.results) for group in groups]
    if metric and not any(row.values for row in rows):
        known = sorted({k for g in groups for r in g.results for k, v in r.summary.items() if isinstance(v, float)})
        raise UserError(f"metric={metric}: no finished run has it; they have {', '.join(known)}")
    bases = _bases(groups, by, baseline) if against and len(groups) > 1 else {}
    for i, j in bases.items():
        check_comparable([groups[j].results[0], groups[i].results[0]], by or "")
    order = list(range(len(rows)))
    if by:
        order.sort(key=lambda i: _others(groups[i], by))
    notes = [note for i in order for note in _notes(groups[i], rows[i])]
    if by and against and not bases:
        notes.append(f"no two configurations differ in {by} alone: no differences")
    figures = _figures([groups[i] for i in order], [rows[i] for i in order], notes)
    table = _table(groups, rows, order, bases, by)
    return Comparison(table, figures, notes, described([r for group in groups for r in group.results]))


def _table(
    groups: Sequence[Group], rows: Sequence[Row], order: Sequence[int], bases: dict[int, int], by: str | None
) -> Table:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    several = len(metrics) > 1
    more = [c for c in CURVES if c not in metrics and any(r.value(c) is not None for row in rows for r in row.results)]
    titles = [*rows[0].labels, *(["metric"] if several else []), "seeds"]
    titles += ["mean ± SD" if several else f"{named(metrics[0])} ± SD"]
    if bases:
        titles.append(f"difference to {groups[next(iter(bases.values()))].told(by)} [95 %]")
    titles += [f"{_plain(c)} ± SD" for c in more]
    cells = []
    for i in order:
        row = rows[i]
        cell: list[Any] = [*row.labels.values(), *([named(row.metric)] if several else []), seeds(row)]
        cell[0] += MARK if row.mixed else ""
        cell.append(_spread(row.values.values(), row.metric))
        if bases:
            cell.append(_difference(row, rows[bases[i]]) if i in bases else "")
        cell += [_spread([v for r in row.results if (v := r.value(c)) is not None], c) for c in more]
        cells.append(cell)
    subject = "Results" if several else _plain(metrics[0]).capitalize().replace("Bleu", "BLEU")
    return Table(f"{subject} by {', '.join(rows[0].labels)}", titles, cells)


def _setting(groups: Sequence[Group], by: str | None) -> str | None:
    """The full name of the setting `by`."""
    if by is None:
        return None
    names = list(groups[0].labels)
    found = [name for name in names if name == by] or [name for name in names if name.rpartition(".")[2] == by]
    if len(groups) < 2 or not found:
        differ = f"they differ in {', '.join(names)}" if len(groups) > 1 else "they differ in their seeds only"
        raise UserError(f"by={by}: the runs do not differ in it; {differ}")
    return found[0]


def _others(group: Group, by: str) -> tuple[str, ...]:
    return tuple(value for key, value in group.labels.items() if key != by)


def _bases(groups: Sequence[Group], by: str | None, baseline: str | None) -> dict[int, int]:
    """For each group, by its number, the group that it is compared with; a baseline is compared with nothing."""
    names = [group.labels[by] if by else group.name for group in groups]
    if baseline is not None and baseline not in names:
        raise UserError(f"baseline={baseline}: give one of {', '.join(dict.fromkeys(names))}")
    base = baseline or next((n for n in names if n == "fp32"), None)
    if base is None and not by:
        full = [n for n, g in zip(names, groups, strict=True) if g.labels.get("weights") == "fp32"]
        base = full[0] if len(full) == 1 else None
    base = base or names[0]
    if not by:
        return {i: names.index(base) for i in range(len(groups)) if i != names.index(base)}
    place = {_others(g, by): i for i, g in enumerate(groups) if g.labels[by] == base}
    return {i: place[_others(g, by)] for i, g in enumerate(groups) if g.labels[by] != base and _others(g, by) in place}


def _metric(group: Group) -> str:
    return next((r.metric for r in group.results if r.metric), "val/loss")


def _plain(metric: str) -> str:
    """Its name without unit and direction."""
    return named(metric).partition(" (")[0].partition(",")[0]


def _form(metric: str) -> str:
    plain = metric.removeprefix("best/")
    return ".2f" if plain in PERCENT or plain in ("val/perplexity", "val/bleu") else ".2e" if "flip" in plain else ".4f"


def _spread(values: Any, metric: str) -> Spread | None:
    found = tuple(values)
    return Spread(found, _form(metric)) if found else None


def _difference(row: Row, base: Row) -> Any:
    found = difference(row.values, base.values) if row.metric == base.metric else None
    return replace(found, form=_form(row.metric), less=row.metric in LESS_IS_BETTER) if found else None


def _notes(group: Group, row: Row) -> list[str]:
    found = [f"{MARK} {group.name}: runs of different {key}: {'; '.join(v)}" for key, v in row.mixed.items()]
    for state in dict.fromkeys(r.status for r in row.results if r.status != "finished"):
        count = sum(r.status == state for r in row.results)
        found.append(f"{group.name}: {count} of {len(row.results)} runs {state}, without a value")
    return found


def described(results: Sequence[Result]) -> str:
    """What the numbers are of: models, data with their sizes, lengths, and how many seeds."""
    models = dict.fromkeys(str(r.summary.get("model")) for r in results)
    data = dict.fromkeys(_data(r) for r in results)
    lengths = sorted({int(r.summary["steps"]) for r in results if r.summary.get("steps")})
    steps = f", {lengths[0]:,}" + (f" to {lengths[-1]:,}" if len(lengths) > 1 else "") + " steps" if lengths else ""
    count = len({r.seed for r in results})
    return f"{', '.join(models)} on {'; '.join(data)}{steps}; {count} seed{'s' * (count != 1)}"


def _data(result: Result) -> str:
    name, train = str(result.summary.get("data")), result.summary.get("train_examples")
    if not isinstance(train, int):
        return name
    unit = result.summary.get("unit", "examples")
    return f"{name} ({train:,} {unit} for training, {result.summary.get('val_examples', 0):,} for validation)"


# -- curves --------------------------------------------------------------------------------------------------------


def _figures(groups: Sequence[Group], rows: Sequence[Row], notes: list[str]) -> list[Figure]:
    """The metric, the training loss and the flips over the steps: means, and bands from smallest to largest."""
    metrics = list(dict.fromkeys(row.metric for row in rows))
    shown = [(g, r) for g, r in zip(groups, rows, strict=True) if r.metric == metrics[0]]
    if len(shown) > MOST:
        notes.append(f"the curves are those of the best {MOST} of {len(shown)} configurations")
        best = sorted((row for _, row in shown if row.values), key=_mean, reverse=metrics[0] not in LESS_IS_BETTER)
        shown = [one for one in shown if any(one[1] is row for row in best[:MOST])]
    columns = [metrics[0].removeprefix("best/"), *(c for c in CURVES if c != metrics[0])]
    curves = [(g, [r.curves(*columns) for r in g.results if r.status in ("finished", "diverged")]) for g, _ in shown]
    found = []
    for column in columns:
        series = [one for g, own in curves if (one := band(g.name, [c[column] for c in own])) and one.x]
        if series:
            name = column.replace("/", "_")
            axis = Axis(named(column), log=column == "flip_frequency")
            found.append(Figure(name, _plain(column), "lines", Axis("optimizer step"), axis, series))
    return found


def _mean(row: Row) -> float:
    return sum(row.values.values()) / len(row.values)


def band(label: str, curves: Sequence[tuple[list[int], list[float]]], choice: str | None = None) -> Series:
    """The mean of curves (steps, values) at each step that all have, with the smallest and the largest."""
    known = [dict(zip(*curve, strict=True)) for curve in curves]
    steps = sorted(set.intersection(*(set(c) for c in known))) if known else []
    values = [[c[step] for c in known] for step in steps]
    several = len(known) > 1
    return Series(
        label, steps, [sum(v) / len(v) for v in values], [min(v) for v in values] if several else [],
        [max(v) for v in values] if several else [], choice=choice,
    )  # fmt: skip
