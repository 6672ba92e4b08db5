"""Why hysteresis gains or loses: what each conjecture says should be seen, beside what was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..report import tables
from ..report.figure import Axis, Figure, Series
from ..report.sections import Table
from ..report.tables import Row
from .makers import Made, rows_of
from .plan import Plan, Run

MEASURED = (  # column of metrics.csv, and what the table calls it
    ("rest/distance", "rest, steps of the grid"),
    ("rest/bits_lost", "bits lost"),
    ("rest/noise", "noise, share of the norm"),
    ("flip_frequency", "flips a step"),
    ("oscillation/reversals", "reversals a step"),
    ("change/output", "change of outputs"),
)
CONJECTURES = [
    "Conjecture 1: under hysteresis a weight rests up to a level from its master, rounded to nearest half of one. "
    "It holds if 'rest' and 'bits lost' are larger under hysteresis, the latter by up to 1. This is why hysteresis "
    "loses, if the same masters, rounded to nearest at the end (batch norm anew in both), give back what was lost.",
    "Conjecture 2: it costs INT4 more than log4, whose levels lie close together near zero. It holds if 'noise' rises "
    "by more for INT4, from nearest to hysteresis.",
    "Conjecture 3: while the rate is high hysteresis gains since outputs change less from step to step. It holds if "
    "'change of outputs' falls where there is a gain. If batch norm estimated anew gives nearest back what it lost, "
    "then the statistics, which lag behind, are the reason.",
    "Conjecture 4: the higher the rate, the wider the hysteresis that is best. It holds if the best width falls from a "
    "rate of 0.1 throughout to 0.01 throughout, and to a rate that ends at zero.",
]
Case = tuple[tuple[str, str], ...]


def why(plan: Plan, runs: Sequence[Run]) -> Made:
    """By case and arm: the metric, what it is with other statistics or levels, and what the weights do at the end."""
    rows = rows_of(plan, runs)
    by_case: dict[Case, dict[str, Row]] = {}
    for row in rows:
        case = tuple((key, value) for key, value in row.labels.items() if key != "arm")
        by_case.setdefault(case, {})[row.labels["arm"]] = row
    cells = [
        _cells(case, arm, row, found.get(str(plan.baseline)))
        for case, found in by_case.items()
        for arm, row in found.items()
    ]
    columns = ["case", "weights with", "seeds", "mean ± SD", f"difference to {plan.baseline} [95 %]",
               "batch norm anew, to as it is [95 %]", "nearest at the end, both anew [95 %]",
               *(name for _, name in MEASURED)]  # fmt: skip
    made = Table("What is gained, and what the weights do at the end of the run", columns, cells)
    whole, notes = tables.table("All runs", rows, plan.baseline)
    return [made, _widths(plan, by_case), whole], _figures(plan, by_case), [*CONJECTURES, *notes]


def _cells(case: Case, arm: str, row: Row, base: Row | None) -> list[Any]:
    own = tuple(row.values.values())
    gain = tables.difference(row.values, base.values) if base is not None and base is not row else None
    anew, near = (_of(row, f"{row.metric}_{what}") for what in ("anew", "nearest"))
    changed = [tables.difference(anew, row.values), tables.difference(near, anew)]
    cell: list[Any] = [_name(case), arm, len(own), tables.Spread(own) if own else None, gain or "", *changed]
    return [*cell, *(_last(row, column) for column, _ in MEASURED)]


def _name(case: Case) -> str:
    return ", ".join(value for key, value in case if key != "model") or case[0][1]


def _of(row: Row, column: str) -> dict[int, float]:
    """A figure of the summaries by seed, in the units of the metric."""
    percent = 100 if row.metric in tables.PERCENT else 1
    found = {result.seed: result.value(column) for result in row.results}
    return {seed: percent * value for seed, value in found.items() if value is not None}


def _last(row: Row, column: str) -> float | None:
    """The mean over seeds of the last value of a column."""
    found = [values[-1] for result in row.results if (values := result.curve(column)[1])]
    return sum(found) / len(found) if found else None


def _widths(plan: Plan, by_case: dict[Case, dict[str, Row]]) -> Table:
    """The arm with the best mean in each case."""
    cells = []
    for case, found in by_case.items():
        means = {arm: tables.mean_sd([*row.values.values()])[0] for arm, row in found.items() if row.values}
        best = max(means, key=lambda arm: means[arm] or 0.0, default=None)
        cells.append([_name(case), best, *(means.get(arm) for arm in plan.arms)])
    return Table("Which width is best (means)", ["case", "best", *plan.arms], cells)


def _figures(plan: Plan, by_case: dict[Case, dict[str, Row]]) -> list[Figure]:
    """Gains against bits lost, a point a case and arm."""
    series = []
    for arm in (arm for arm in plan.arms if arm != plan.baseline):
        points = [point for found in by_case.values() if (point := _point(found, arm, str(plan.baseline)))]
        if points:
            xs, ys = zip(*sorted(points), strict=True)
            series.append(Series(arm, list(xs), list(ys)))
    x, y = Axis(f"bits lost at rest, beyond {plan.baseline}"), Axis(f"gain over {plan.baseline}, points")
    return [Figure("rest", plan.title, "scatter", x, y, series)] if series else []


def _point(found: dict[str, Row], arm: str, baseline: str) -> tuple[float, float] | None:
    if arm not in found or baseline not in found:
        return None
    gain = tables.difference(found[arm].values, found[baseline].values)
    lost, before = (_last(found[name], "rest/bits_lost") for name in (arm, baseline))
    return None if gain is None or lost is None or before is None else (lost - before, gain.mean)
