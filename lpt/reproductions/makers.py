"""From the runs of a plan to its tables and figures; a plan's `make` names one of the functions below.

Each takes the plan and its runs and returns (tables, figures, notes).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from scipy import stats

from ..report import tables
from ..report.figure import Axis, Figure, Series
from ..report.runs import Result, named, read
from ..report.sections import Table
from ..report.tables import Row
from .plan import Plan, Run

Made = tuple[list[Table], list[Figure], list[str]]
LAYER = "flip_frequency/layer/"


def rows_of(plan: Plan, runs: Sequence[Run], metric: str | None = None) -> list[Row]:
    """Runs that differ in nothing but their seeds, together; `metric` is the model's own if None."""
    groups: dict[tuple[tuple[str, str], ...], list[Result]] = {}
    for run in runs:
        if run.program == "config":
            groups.setdefault(run.labels, []).append(read(run.folder))
    found = []
    for labels, results in groups.items():
        named = dict(labels)
        found.append(Row(named, metric or plan.models[named["model"]]["metric"], results))
    return found


def scores(plan: Plan, runs: Sequence[Run]) -> Made:
    """Final metric by model and arm; bars of it, or of the difference to the baseline if there is one."""
    rows = rows_of(plan, runs)
    made, notes = tables.table(plan.title, rows, plan.baseline, plan.compare, plan.published)
    figures = []
    for metric in dict.fromkeys(row.metric for row in rows):
        own = {(row.labels["model"], row.labels["arm"]): row.values for row in rows if row.metric == metric}
        arms = [arm for arm in plan.arms if arm != plan.baseline]
        title, axis = f"{plan.title}: {named(metric)}", named(metric)
        if arms and plan.baseline:
            axis = f"difference to {plan.baseline}, seed by seed"
            title = f"{plan.title}: difference to {plan.baseline} in {named(metric)}"
        axis += "; lines: smallest to largest"
        series = [_bar(own, arm, plan.baseline if arms else None) for arm in arms or plan.arms]
        figures.append(Figure(metric.replace("/", "_"), title, "bars", Axis("model"), Axis(axis), series))
    return [made], figures, notes


def _bar(found: Mapping[tuple[str, str], Mapping[int, float]], arm: str, baseline: str | None) -> Series:
    """Mean over seeds, from the smallest to the largest; of the differences to `baseline` if one is given."""
    models = [model for model, each in found if each == arm]
    values = [[v - (found.get((model, baseline), {}).get(seed, math.nan) if baseline else 0)
               for seed, v in found[model, arm].items()] for model in models]  # fmt: skip
    kept = [[v for v in each if not math.isnan(v)] for each in values]
    return Series(arm, models, [tables.mean_sd(each)[0] for each in kept], [min(each, default=None) for each in kept],
                  [max(each, default=None) for each in kept])  # fmt: skip


def flips(plan: Plan, runs: Sequence[Run]) -> Made:
    """Flip frequency over training, of the network and of each layer; its mean at the end; final metric."""
    rows = rows_of(plan, runs)
    made, notes = tables.table("Final metric", rows, plan.baseline, plan.compare, plan.published)
    every, rows = rows, [row for row in rows if row.labels["arm"] != plan.baseline]  # its weights are not on a grid
    other = {first: second for first, second in plan.compare}  # noqa: C416
    found, cells = {(row.labels["model"], row.labels["arm"]): row for row in rows}, []
    for (model, arm), row in found.items():
        cell: list[Any] = [model, arm, len(row.values)]
        peer = found.get((model, other.get(arm, "")))
        for part in (3, 10):
            own = tuple(_late(row, part))
            cell += [tables.Spread(own, ".2e") if own else None, "" if peer is None else _fewer(_late(peer, part), own)]
        cells.append(cell)
    parts = [f"{part}{what}" for part in ("last third", "last tenth") for what in (" ± SD", ", to no hysteresis")]
    columns = ["model", "format and weights", "seeds", *parts]
    said = "; ".join(f"{cell[1]}, last tenth: {cell[-1]}" for cell in cells if cell[-1])
    title = "Flip frequency, the share of weights that change a step, at the end of training"
    rare = Table(title, columns, cells, f"flips, to no hysteresis: {said}" if said else "")
    step = Axis("optimizer step (bands: smallest to largest of the seeds)")
    share = Axis(named("flip_frequency"), log=True)
    whole = [_curve(row.labels["arm"], row.results, "flip_frequency") for row in rows]
    layers = dict.fromkeys(c for row in rows for r in row.results for c in r.columns(LAYER))
    each = [_curve(row.labels["arm"], row.results, c, c.removeprefix(LAYER)) for c in layers for row in rows]
    figures = [Figure("flips", f"{plan.title}: {', '.join(plan.models)}", "lines", step, share, whole),
               Figure("flips_layers", "Flip frequency of a layer", "lines", step, share, each)]  # fmt: skip
    metric = Axis(named(next(iter(plan.models.values()))["metric"]))
    late = sorted(every, key=lambda row: row.labels["arm"] == plan.baseline)  # so that an arm keeps its colour
    during = [_curve(row.labels["arm"], row.results, row.metric) for row in late]
    figures.append(Figure("during", f"While training: {', '.join(plan.models)}", "lines", step, metric, during))
    during_it = _during(found, other)
    return [rare, made, *([during_it] if during_it.rows else [])], figures, notes


def _fewer(without: Sequence[float], own: Sequence[float]) -> str | None:
    """How many times fewer flips on average, and for the seed in which it was the least and the most."""
    if not without or len(without) != len(own) or not all(own):
        return None
    each = [a / b for a, b in zip(without, own, strict=True)]
    return f"{sum(without) / sum(own):.1f} times fewer ({min(each):.1f} to {max(each):.1f})"


def _during(rows: Mapping[tuple[str, str], Row], other: Mapping[str, str]) -> Table:
    """At each validation of the runs, the difference to the weights without hysteresis, paired over seeds."""
    pairs = {key: (row, rows[peer]) for key, row in rows.items() if (peer := (key[0], other.get(key[1], ""))) in rows}
    values = {key: (_at_steps(row), _at_steps(peer)) for key, (row, peer) in pairs.items()}
    steps = sorted({step for mine, _ in values.values() for step in mine})
    cells = []
    for key, (mine, theirs) in values.items():
        found = [tables.difference(mine.get(step, {}), theirs.get(step, {})) for step in steps]
        cells.append([*key, *found])
    columns = ["model", "format and weights", *(f"step {step:,}" for step in steps)]
    return Table("Validation metric during training, difference to the same without hysteresis [95 %]", columns, cells)


def _at_steps(row: Row) -> dict[int, dict[int, float]]:
    """Of the finished runs, the metric at each step it was measured at, by seed."""
    found: dict[int, dict[int, float]] = {}
    for result in row.results:
        if result.status == "finished":
            for step, value in zip(*result.curve(row.metric), strict=True):
                found.setdefault(step, {})[result.seed] = value
    return found


def _late(row: Row, part: int) -> list[float]:
    """Of each finished run, the mean flip frequency over the last 1/part of its steps."""
    found = []
    for result in row.results:
        steps, values = result.curve("flip_frequency") if result.status == "finished" else ([], [])
        late = [value for step, value in zip(steps, values, strict=True) if step * part > steps[-1] * (part - 1)]
        found += [sum(late) / len(late)] if late else []
    return found


def _curve(label: str, results: Sequence[Result], column: str, choice: str | None = None) -> Series:
    """Mean over seeds at each step that all have, with the smallest and the largest."""
    curves = [dict(zip(*r.curve(column), strict=True)) for r in results if r.status in ("finished", "diverged")]
    steps = sorted(set.intersection(*(set(c) for c in curves))) if curves else []
    values = [[c[s] for c in curves] for s in steps]
    return Series(label, steps, [sum(v) / len(v) for v in values], [min(v) for v in values], [max(v) for v in values],
                  choice=choice)  # fmt: skip


def crossing(plan: Plan, runs: Sequence[Run]) -> Made:
    """Differences to rounding to nearest against the number of steps, and between which lengths their sign changes."""
    rows = rows_of(plan, runs)
    made, notes = tables.table(plan.title, rows, plan.baseline, plan.compare)
    key = lambda row: tuple((k, v) for k, v in row.labels.items() if k not in ("arm", "steps"))  # noqa: E731
    arms = [arm for arm in plan.arms if arm != plan.baseline]
    steps = sorted({int(row.labels["steps"]) for row in rows})
    series, cells = [], []
    for case in dict.fromkeys(map(key, rows)):
        own = {(r.labels["arm"], int(r.labels["steps"])): r for r in rows if key(r) == case}
        title = ", ".join(value for name, value in case if name != "model")
        for arm in arms:
            found = [_gain(own.get((arm, s)), own.get((str(plan.baseline), s))) for s in steps]
            kept = [(s, d) for s, d in zip(steps, found, strict=True) if d]
            low = [d.mean if d.low is None else d.low for _, d in kept]
            high = [d.mean if d.high is None else d.high for _, d in kept]
            series.append(Series(arm, [s for s, _ in kept], [d.mean for _, d in kept], low, high, choice=title))
            points = [(s, d) for s in steps for d in _each(own.get((arm, s)), own.get((str(plan.baseline), s)))]
            cells.append([title, arm, *found, where(kept), fitted(points)])
    found_table = Table(
        f"Difference to {plan.baseline} after so many steps, in points of accuracy [95 %]",
        ["case", "weights", *(f"{s:,}" for s in steps), "changes its sign", "crosses, by a fit [95 %]"], cells,
    )  # fmt: skip
    length, gain = Axis("optimizer steps of the run", log=True), Axis("gain in points, 95 % interval")
    title = f"Gain over {plan.baseline} against the length of training"
    figure = Figure("crossing", title, "lines", length, gain, series)
    return [found_table, made], [figure], notes


def _gain(row: Row | None, other: Row | None) -> tables.Difference | None:
    return tables.difference(row.values, other.values) if row and other else None


def _each(row: Row | None, other: Row | None) -> list[float]:
    """The differences of the seeds that both have."""
    a, b = (r.values if r else {} for r in (row, other))
    return [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]


def fitted(points: Sequence[tuple[int, float]]) -> str | None:
    """Where the least-squares line through (log of steps, difference) crosses zero, with Fieller's 95 % interval.

    The interval is where the line's confidence band holds zero. It has no end where the slope may be zero.
    """
    if len(points) < 3 or len({steps for steps, _ in points}) < 2:
        return None
    fit = stats.linregress([math.log(steps) for steps, _ in points], [difference for _, difference in points])
    n, middle = len(points), math.fsum(math.log(steps) for steps, _ in points) / len(points)
    height = fit.intercept + fit.slope * middle
    t = float(stats.t.ppf(0.975, n - 2))
    spread = math.fsum((math.log(steps) - middle) ** 2 for steps, _ in points)
    noise = (t * fit.stderr) ** 2  # of the slope; of the height at the middle it is noise * spread / n
    a, b, c = fit.slope**2 - noise, 2 * fit.slope * height, height**2 - noise * spread / n
    if a <= 0 or b * b < 4 * a * c:
        return "the slope may be zero"
    root = math.sqrt(b * b - 4 * a * c)
    low, high = sorted(math.exp(middle + (-b + sign * root) / (2 * a)) for sign in (-1, 1))
    best, first, last = math.exp(middle - height / fit.slope), min(points)[0], max(points)[0]
    beyond = "" if first <= best <= last else ", beyond the runs"
    return f"{best:,.0f} steps [{low:,.0f}, {high:,.0f}]{beyond}"


def where(found: Sequence[tuple[int, tables.Difference]]) -> str:
    """Between which numbers of steps the difference changes its sign, as far as its intervals tell.

    A length counts if its interval excludes zero; the crossing lies between the nearest two of opposite signs.
    """
    signs = [(s, math.copysign(1, d.mean)) for s, d in found if d.low is not None and d.high is not None
             and (d.low > 0 or d.high < 0)]  # fmt: skip
    if not signs:
        return "no difference beyond its interval"
    changes = [f"{a:,} to {b:,}" for (a, p), (b, q) in pairwise(signs) if p != q]
    return "; ".join(changes) or f"nowhere: {'better' if signs[0][1] > 0 else 'worse'} wherever it differs"


def angles(plan: Plan, runs: Sequence[Run]) -> Made:
    """The angle of each format on each trained model, by errors and by activations, and the mean rank."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for run in runs:
        file = run.result / "ranking.csv"
        if run.program == "search" and file.is_file():
            with file.open(newline="", encoding="utf-8") as lines:
                found[run.label["model"]] = {row["name"]: row for row in csv.DictReader(lines)}
    shared = set.intersection(*(set(rows) for rows in found.values())) if found else set()
    ranks = {name: {m: 1 + sum(float(rows[o]["both"]) < float(rows[name]["both"]) for o in shared)
                    for m, rows in found.items()} for name in shared}  # fmt: skip
    means = {name: sum(of.values()) / len(of) for name, of in ranks.items()}
    order = sorted(shared, key=lambda name: (means[name], name))
    rows = [[n, *(float(found[m][n]["both"]) for m in found), means[n], max(ranks[n].values())] for n in order]
    titled = Table("Angle in degrees, E and A quantized", ["format", *found, "mean rank", "worst rank"], rows)
    shown = order[:40]
    series = [
        Series(name, list(found), [float(found[m][name][kind]) for m in found], choice=title)
        for kind, title in (("both", "E and A quantized"), ("error", "E quantized"), ("activation", "A quantized"))
        for name in shown
    ]
    figure = Figure("angles", "Angle by format and model", "heatmap", Axis("model"), Axis("degrees", log=True), series)
    trained, _, notes = scores(plan, runs)
    trained[0].title = "The trained models"
    return [titled, *trained], [figure], notes
