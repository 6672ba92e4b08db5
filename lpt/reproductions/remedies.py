"""What remedies against flickering weights gain over rounding to nearest, and which gains more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..report import tables
from ..report.figure import Axis, Figure, Series
from ..report.runs import LESS_IS_BETTER, named
from ..report.sections import Table
from ..report.tables import Row
from .makers import Made, rows_of
from .plan import Plan, Run
from .tuning import FIRST

WHY = (  # column of metrics.csv, and what the table calls it
    ("flip_frequency", "flips a step"),
    ("oscillation/reversals", "reversals a step"),
    ("oscillation/share", "share with R >= 16"),
    ("change/quantized", "rate of change of Q(w)"),
    ("change/output", "of outputs"),
    ("confidence", "confidence"),
)
Case = tuple[tuple[str, str], ...]


def remedies(plan: Plan, runs: Sequence[Run]) -> Made:
    """Differences to rounding to nearest and to hysteresis, paired over seeds, by case; and what may explain them.

    A case is a model, a length, a format of weights, a schedule. Of several learning rates the one is taken that was
    best for the arm in that case with the first seed (`tuning`); it is named where it is not the only one.
    """
    rows = rows_of(plan, runs)
    best, rates = _best(plan, rows)
    cases = list(dict.fromkeys(case for case, _ in best))
    arms = [arm for arm in plan.arms if any((case, arm) in best for case in cases)]
    made = [_matrix(f"{_name(cases, case)}", best, rates, case, arms, plan) for case in cases]
    of = {case: str(plan.models[dict(case)["model"]]["metric"]) for case in cases}
    gains, figures = [], []
    for metric in dict.fromkeys(of.values()):
        own = [case for case in cases if of[case] == metric]
        names = {case: _name(cases, case) for case in own}
        for other in dict.fromkeys([str(plan.baseline), *(["hysteresis"] if "hysteresis" in arms else [])]):
            gains.append(_gains(best, names, arms, other, _unit(metric)))
        figures += _figure(plan, metric, best, names, arms)
    whole, notes = tables.table("All runs", rows, plan.baseline)
    return [*gains, *made, whole], figures, notes


def _unit(metric: str) -> str:
    """What differences are in."""
    return "points" if metric in tables.PERCENT else f"{named(metric)}"


def _figure(
    plan: Plan, metric: str, best: dict[tuple[Case, str], Row], names: dict[Case, str], arms: Sequence[str]
) -> list[Figure]:
    """Bars of the differences to the baseline; none where there are none."""
    series = []
    for arm in arms:
        found = [(name, _difference(best, case, arm, str(plan.baseline))) for case, name in names.items()]
        kept = [(name, d) for name, d in found if d is not None and arm != plan.baseline]
        low = [d.mean if d.low is None else d.low for _, d in kept]
        high = [d.mean if d.high is None else d.high for _, d in kept]
        if kept:
            series.append(Series(arm, [name for name, _ in kept], [d.mean for _, d in kept], low, high))
    axis = Axis(f"{_unit(metric)} over {plan.baseline}, seed by seed; lines: 95 % interval")
    name = "gains" if metric in tables.PERCENT else f"gains_{metric.partition('/')[2]}"
    return [Figure(name, plan.title, "bars", Axis("case"), axis, series)] if series else []


def _best(plan: Plan, rows: Sequence[Row]) -> tuple[dict[tuple[Case, str], Row], dict[tuple[Case, str], str]]:
    """By case and arm the row of the searched learning rate, and that rate if there were several."""
    found: dict[tuple[Case, str], list[Row]] = {}
    for row in rows:
        case = tuple((key, value) for key, value in row.labels.items() if key not in ("arm", plan.tune))
        found.setdefault((case, row.labels["arm"]), []).append(row)
    best = {key: max(each, key=_first) for key, each in found.items()}
    several = len({row.labels.get(str(plan.tune)) for row in rows}) > 1
    return best, {key: row.labels[str(plan.tune)] if several else "" for key, row in best.items()}


def _first(row: Row) -> float:
    """What the search went by; more is better."""
    value = row.values.get(FIRST, float("nan"))
    return float("-inf") if value != value else -value if row.metric in LESS_IS_BETTER else value


def _name(cases: Sequence[Case], case: Case) -> str:
    """What tells the case from the others."""
    varied = {key for key, _ in case if len({dict(other).get(key) for other in cases}) > 1}
    parts = [f"{int(value):,} steps" if key == "steps" else value for key, value in case if key in varied]
    return ", ".join(parts) or ", ".join(value for _, value in case)


def _difference(best: dict[tuple[Case, str], Row], case: Case, arm: str, other: str) -> tables.Difference | None:
    row, peer = best.get((case, arm)), best.get((case, other))
    return tables.difference(row.values, peer.values) if row and peer else None


def _gains(
    best: dict[tuple[Case, str], Row], names: dict[Case, str], arms: Sequence[str], other: str, unit: str
) -> Table:
    cells = []
    for arm in arms:
        found = [_difference(best, case, arm, other) for case in names]
        if arm != other and any(found):
            cells.append([arm, *(None if d is None else str(d) for d in found)])
    return Table(f"Difference to {other}, in {unit} [95 %]", ["arm", *names.values()], cells)


def _matrix(
    title: str, best: dict[tuple[Case, str], Row], rates: dict[tuple[Case, str], str], case: Case,
    arms: Sequence[str], plan: Plan,
) -> Table:  # fmt: skip
    """One case: each arm's metric, the same with batch-norm statistics estimated anew, and what its weights do."""
    cells = []
    for arm in arms:
        if (row := best.get((case, arm))) is None:
            continue
        anew = [v for r in row.results if (v := r.value(f"{row.metric}_anew")) is not None]
        percent = 100 if row.metric in tables.PERCENT else 1
        cell: list[Any] = [" ".join(filter(None, [arm, rates[case, arm]])), len(row.values)]
        own, new = tuple(row.values.values()), tuple(percent * v for v in anew)
        cell += [tables.Spread(own) if own else None, tables.Spread(new) if new else None]
        cells.append([*cell, *(_late(row, column) for column, _ in WHY)])
    columns = ["arm", "seeds", "mean ± SD", "batch-norm anew", *(name for _, name in WHY)]
    return Table(f"{title}: {plan.models[dict(case)['model']]['metric']}; means over the last third", columns, cells)


def _late(row: Row, column: str) -> float | None:
    """The mean over the seeds and the last third of the steps."""
    found = []
    for result in row.results:
        steps, values = result.curve(column) if result.status == "finished" else ([], [])
        late = [value for step, value in zip(steps, values, strict=True) if step * 3 > steps[-1] * 2]
        found += [sum(late) / len(late)] if late else []
    return sum(found) / len(found) if found else None
