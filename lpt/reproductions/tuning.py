"""A setting that is searched before arms are compared: all its values with the first seed, the others with the best.

A plan's `tune` names the key of `vary`. Every arm gets the same search, in each condition for itself, and is judged by
its metric at the end of the run with the first seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..report.runs import LESS_IS_BETTER, read
from .plan import Plan, Run

FIRST = 0


def first(plan: Plan, runs: Sequence[Run]) -> list[Run]:
    """The runs of the search; none if the plan has none, or a single value."""
    several = plan.tune is not None and len(plan.vary[plan.tune]) > 1
    return [run for run in runs if run.seed == FIRST] if several else []


def tuned(plan: Plan, runs: Sequence[Run]) -> list[Run]:
    """The runs without those of further seeds that are not at the best value, or whose search is not done."""
    if not first(plan, runs):
        return list(runs)
    searched: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in first(plan, runs):
        searched.setdefault(_rest(plan, run), []).append(run)
    best = {rest: max(each, key=lambda run: _value(plan, run)) for rest, each in searched.items()}
    over = {rest for rest, each in searched.items() if all(run.done for run in each)}
    return [
        run for run in runs
        if run.seed == FIRST or (_rest(plan, run) in over and best[_rest(plan, run)].labels == run.labels)
    ]  # fmt: skip


def _rest(plan: Plan, run: Run) -> tuple[tuple[str, str], ...]:
    return tuple((key, value) for key, value in run.labels if key != plan.tune)


def _value(plan: Plan, run: Run) -> float:
    """More is better; a run that diverged or is not done is the worst."""
    metric = plan.models[run.label["model"]]["metric"]
    value = read(run.folder).value(metric)
    return -math.inf if value is None else -value if metric in LESS_IS_BETTER else value
