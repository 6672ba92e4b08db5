"""Do the angles, measured without training, predict what training in a format gives? Spearman's correlations.

The runs train a network from scratch in each of many schemes, formats in Edges and block formats in products, the
masters in full precision. What is to predict them is measured on the same network trained in full precision (seed 0);
a short training, the rival, is the runs' own beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ..report.figure import Axis, Figure, Series
from ..report.ranking import LABELLED
from ..report.runs import LESS_IS_BETTER, Result
from ..report.sections import Table
from ..report.tables import Row
from ..search import Candidate
from .indicators import indicators, scheme
from .makers import Made, rows_of
from .plan import Plan, Run

RESAMPLES = 2000
DONE = ("finished", "diverged")
Array = NDArray[np.float64]
Kinds = dict[str, NDArray[np.intp]]


def make(plan: Plan, runs: Sequence[Run]) -> Made:
    """For each model the correlations, and the loss after training against each indicator, which is measured once."""
    made: list[Table] = []
    figures: list[Figure] = []
    notes = ["the interval is a bootstrap's of 95 %, over schemes and seeds"]
    for model in plan.models:
        every = [row for row in rows_of(plan, runs, "val/loss") if row.labels["model"] == model]
        rows = [row for row in every if row.labels["arm"] != "FP32" and _whole(row, plan.seeds)]
        base = [run for run in runs if run.label["arm"] == "FP32" and run.label["model"] == model and run.seed == 0]
        if not base or not base[0].done or len(rows) < 3:
            notes.append(f"{model}: not reckoned yet, for want of finished runs ({len(rows)} schemes are whole)")
            continue
        if absent := len(every) - 1 - len(rows):
            notes.append(f"{model}: {absent} schemes are left out, since not all of their runs are finished")
        schemes = [scheme(row.labels["arm"], plan.arms[row.labels["arm"]]) for row in rows]
        metric = plan.models[model]["metric"]
        trainings, bad = _trainings(rows, ("val/loss", "train/loss", metric))
        found = indicators(base[0].folder, schemes, plan.options["batches"]) | _short(
            rows, plan.options.get("short", [])
        )
        name = f"{model}: " if len(plan.models) > 1 else ""
        made += [*report(found, trainings, name, _kinds(schemes)), _values(schemes, found, trainings, name)]
        figures.append(_figure(model, schemes, found, trainings["val/loss"].mean(1)))
        text = (
            f"{model}: {len(rows)} schemes, {plan.seeds} seeds each; angles over {plan.options['batches']} mini-batches"
        )
        notes += [text, *(f"{model}: {each}" for each in bad)]
    return made, figures, notes


def report(
    indicators: dict[str, Array], trainings: dict[str, Array], name: str = "", kinds: Kinds | None = None
) -> list[Table]:
    """Spearman's correlations, each with a bootstrap interval of 95 %: over all, the better half, and each kind."""
    formats = len(trainings["val/loss"])
    order = np.argsort(trainings["val/loss"].mean(1))
    made = []
    groups = {"all schemes": order, "the better half by validation loss": order[: formats // 2], **(kinds or {})}
    for title, rows in groups.items():
        cells: list[list[Any]] = [
            [label, *(_cell(values[rows], trainings[result][rows]) for result in trainings)]
            for label, values in indicators.items()
        ]
        cells.append(["(the result itself, with other seeds)", *(_halves(trainings[r][rows]) for r in trainings)])
        said = (
            f"{name}angles by errors and activations, {title}: {cells[2][1]} with the validation loss"
            if len(cells) > 2
            else ""
        )
        columns = ["indicator", *trainings]
        made.append(Table(f"{name}Spearman's correlation, {title} ({len(rows)})", columns, cells, said))
    return made


def _kinds(schemes: Sequence[Candidate]) -> Kinds:
    """Which are formats with one scale a tensor, and which are blocks; none where all are of one kind."""
    blocks = np.array([each.products is not None for each in schemes])
    kinds = {"one scale a tensor": np.flatnonzero(~blocks), "blocks in products": np.flatnonzero(blocks)}
    return kinds if min(map(len, kinds.values())) >= 3 else {}


def _whole(row: Row, seeds: int) -> bool:
    return len(row.results) == seeds and all(result.status in DONE for result in row.results)


def _values(
    schemes: Sequence[Candidate], indicators: dict[str, Array], trainings: dict[str, Array], name: str
) -> Table:  # fmt: skip
    columns = ["scheme", *indicators, *(f"{r}, seed {s}" for r, v in trainings.items() for s in range(v.shape[1]))]
    rows = [
        [each.name, *(float(v[i]) for v in indicators.values()), *(float(x) for v in trainings.values() for x in v[i])]
        for i, each in enumerate(schemes)
    ]
    return Table(f"{name}Indicators and results by scheme", columns, rows)


def _figure(model: str, schemes: Sequence[Candidate], indicators: dict[str, Array], loss: Array) -> Figure:
    """The loss after training against each indicator; to be chosen."""
    series = []
    kinds = [f"{each.bits:.0f} bits, {'a tensor' if each.products is None else 'blocks'}" for each in schemes]
    names = [each.name for each in schemes]
    for name, values in indicators.items():
        if name.startswith("mse") or name.endswith("propagated"):
            continue
        for kind in sorted(set(kinds), reverse=True):
            own = [i for i, each in enumerate(kinds) if each == kind]
            series.append(Series(kind, [float(values[i]) for i in own], [float(loss[i]) for i in own],
                                 text=[names[i] for i in own], choice=name))  # fmt: skip
        best = int(np.argmin(loss))
        named = [i for i, f in enumerate(names) if f in LABELLED and i != best]
        for label, i in [*((names[i], i) for i in named), (f"best: {names[best]}", best)]:
            series.append(Series(label, [float(values[i])], [float(loss[i])], choice=name))
    title = f"{model}: validation loss after training against what was measured before"
    stem = f"correlation_{''.join(c for c in model.lower() if c.isalnum())}"
    return Figure(stem, title, "scatter", Axis("indicator (degrees, -dB, or what it says)"),
                  Axis("validation loss", log=True), series)  # fmt: skip


def bootstrap(indicator: Array, results: Array, resamples: int = RESAMPLES) -> tuple[float, float, float]:
    """Spearman's correlation of [formats] with the means of [formats, seeds], and its 95 % interval.

    Formats are drawn with replacement, and for each of them its seeds.
    """
    formats, seeds = results.shape
    generator = np.random.default_rng(0)
    rows = generator.integers(formats, size=(resamples, formats))
    columns = generator.integers(seeds, size=(resamples, formats, seeds))
    drawn = results[rows[..., None], columns].mean(-1)
    whole = _spearman(indicator[None], results.mean(1)[None])[0]
    low, high = np.nanquantile(_spearman(indicator[rows], drawn), [0.025, 0.975])
    return float(whole), float(low), float(high)


def _spearman(a: Array, b: Array) -> Array:
    a, b = (stats.rankdata(x, axis=1) for x in (a, b))
    a, b = (x - x.mean(1, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore"):
        return np.asarray((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1)))


def _cell(indicator: Array, results: Array) -> str:
    if len(set(indicator.tolist())) < 2:  # none of these schemes has any noise, say: there is nothing to rank by
        return "-"
    whole, low, high = bootstrap(indicator, results)
    return f"{whole:.2f} [{low:.2f}, {high:.2f}]"


def _halves(results: Array) -> str:
    """The correlation of the means of some seeds with those of the others: what noise leaves to be predicted."""
    half = results.shape[1] // 2
    if not half:
        return "-"
    return f"{_spearman(results[:, :half].mean(1)[None], results[:, half:].mean(1)[None])[0]:.2f}"


def _short(rows: Sequence[Row], steps: Sequence[int]) -> dict[str, Array]:
    """The training loss near the beginning of the runs: at the last log up to each number of steps, mean over seeds."""
    found = {}
    for limit in steps:
        values = [np.nanmean([_early(result, limit) for result in row.results]) for row in rows]
        found[f"training for {limit} steps"] = np.array(values)
    return found


def _early(result: Result, limit: int) -> float:
    pairs = [(s, v) for s, v in zip(*result.curve("train/loss"), strict=True) if s <= limit]
    return float(pairs[-1][1]) if pairs else float("nan")


def _trainings(rows: Sequence[Row], names: Sequence[str]) -> tuple[dict[str, Array], list[str]]:
    """Results [schemes, seeds], and notes; a run that diverged has the worst of all."""
    found: dict[str, Array] = {}
    for name in names:
        values = np.array([[_number(r.summary.get(name), r.status) for r in row.results] for row in rows])
        worst = np.nanmax(values) if name in LESS_IS_BETTER or "loss" in name else np.nanmin(values)
        found[name] = np.where(np.isnan(values), worst, values)
    bad = [f"{row.labels['arm']}, seed {r.seed}: {r.status}" for row in rows for r in row.results
           if r.status != "finished"]  # fmt: skip
    return found, bad


def _number(value: Any, status: str) -> float:
    return float(value) if status == "finished" and value is not None else float("nan")
