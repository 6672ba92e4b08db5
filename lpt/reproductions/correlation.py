"""Do the angles, measured without training, predict what training in a format gives? Spearman's correlations.

The runs train a network from scratch with its data flow in each of many formats, its weights in full precision. The
angles are those of `lpt.search` on the same network trained in full precision (seed 0), exhaustively.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .. import formats as formats_
from ..report.figure import Axis, Figure, Series
from ..report.ranking import LABELLED
from ..report.sections import Table
from ..report.tables import Row
from ..runs import saved
from ..runs.build import build
from ..runs.evaluation import stored
from ..runs.parts import make_task
from ..runs.searching import take
from ..search import Journal, search
from ._rivals import NAMES as RIVALS
from ._rivals import rivals
from .makers import Made, rows_of
from .plan import Plan, Run

INDICATORS = ("error", "activation/local", "both/local", "activation/propagated", "both/propagated", *RIVALS)
RESULTS = ("val/loss", "train/loss", "val/accuracy")
RESAMPLES = 2000
Array = NDArray[np.float64]


def make(plan: Plan, runs: Sequence[Run]) -> Made:
    """The correlations, and the loss after training against each indicator. The angles are measured here, once."""
    rows = [row for row in rows_of(plan, runs, "val/loss") if row.labels["arm"] != "FP32"]
    formats = [row.labels["arm"] for row in rows]
    trainings, notes = _trainings(rows)
    model = next(run.folder for run in runs if run.label["arm"] == "FP32" and run.seed == 0)
    indicators = _indicators(model, formats, plan.options["batches"])
    text = f"{len(formats)} formats, {plan.seeds} seeds each; angles over {plan.options['batches']} mini-batches"
    notes += [text, "the interval is a bootstrap's of 95 %, over formats and seeds"]
    made = [*report(indicators, trainings), _values(formats, indicators, trainings)]
    return made, [_figure(formats, indicators, trainings["val/loss"].mean(1))], notes


def report(indicators: dict[str, Array], trainings: dict[str, Array]) -> list[Table]:
    """Spearman's correlations over all formats and over the better half, each with a bootstrap interval of 95 %."""
    formats = len(trainings["val/loss"])
    order = np.argsort(trainings["val/loss"].mean(1))
    made = []
    for title, rows in (("all formats", order), ("the better half by validation loss", order[: formats // 2])):
        cells: list[list[Any]] = [
            [name, *(_cell(values[rows], trainings[result][rows]) for result in RESULTS)]
            for name, values in indicators.items()
        ]
        cells.append(["(the result itself, with other seeds)", *(_halves(trainings[r][rows]) for r in RESULTS)])
        said = (
            f"angles by errors and activations, {title}: {cells[2][1]} with the validation loss"
            if len(cells) > 2
            else ""
        )
        made.append(Table(f"Spearman's correlation, {title} ({len(rows)})", ["indicator", *RESULTS], cells, said))
    return made


def _values(formats: Sequence[str], indicators: dict[str, Array], trainings: dict[str, Array]) -> Table:
    columns = ["format", *indicators, *(f"{r}, seed {s}" for r, v in trainings.items() for s in range(v.shape[1]))]
    rows = [
        [name, *(float(v[i]) for v in indicators.values()), *(float(x) for v in trainings.values() for x in v[i])]
        for i, name in enumerate(formats)
    ]
    return Table("Indicators and results by format", columns, rows)


def _figure(formats: Sequence[str], indicators: dict[str, Array], loss: Array) -> Figure:
    """The loss after training against each indicator; to be chosen."""
    series = []
    for name, values in indicators.items():
        if name.startswith("mse") or name.endswith("propagated"):
            continue
        for bits in sorted({formats_.get(f).bits for f in formats}, reverse=True):
            own = [i for i, f in enumerate(formats) if formats_.get(f).bits == bits]
            series.append(Series(f"{bits} bits", [float(values[i]) for i in own], [float(loss[i]) for i in own],
                                 text=[formats[i] for i in own], choice=name))  # fmt: skip
        best = int(np.argmin(loss))
        named = [i for i, f in enumerate(formats) if f in LABELLED and i != best]
        for label, i in [*((formats[i], i) for i in named), (f"best: {formats[best]}", best)]:
            series.append(Series(label, [float(values[i])], [float(loss[i])], choice=name))
    return Figure("correlation", "Validation loss after training against what was measured before", "scatter",
                  Axis("indicator (degrees, or -dB)"), Axis("validation loss", log=True), series)  # fmt: skip


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
    whole, low, high = bootstrap(indicator, results)
    return f"{whole:.2f} [{low:.2f}, {high:.2f}]"


def _halves(results: Array) -> str:
    """The correlation of the means of some seeds with those of the others: what noise leaves to be predicted."""
    half = results.shape[1] // 2
    if not half:
        return "-"
    return f"{_spearman(results[:, :half].mean(1)[None], results[:, half:].mean(1)[None])[0]:.2f}"


def _trainings(rows: Sequence[Row]) -> tuple[dict[str, Array], list[str]]:
    """Results [formats, seeds], and notes; a run that diverged has the loss of the worst and the least accuracy."""
    found: dict[str, Array] = {}
    for name in RESULTS:
        values = np.array([[_number(r.summary.get(name), r.status) for r in row.results] for row in rows])
        found[name] = np.where(np.isnan(values), np.nanmin(values) if "accuracy" in name else np.nanmax(values), values)
    bad = [f"{row.labels['arm']}, seed {r.seed}: {r.status}" for row in rows for r in row.results
           if r.status != "finished"]  # fmt: skip
    return found, bad


def _number(value: Any, status: str) -> float:
    return float(value) if status == "finished" and value is not None else float("nan")


def _indicators(folder: Path, formats: Sequence[str], batches: int) -> dict[str, Array]:
    """By name, one value for each format, on the network that was trained in `folder`."""
    file = saved.find(folder)
    cfg: Any = stored(file, saved.read(file))
    task: Any = make_task(cfg, build("trainer", cfg.trainer))
    saved.load(task.model, folder)
    taken = take(task, batches)
    found: dict[str, Array] = {}
    for activation in ("local", "propagated"):
        print(f"measuring angles, activations {activation}", file=sys.stderr, flush=True)
        journal = Journal(folder / f"angles_{activation}-{batches}.jsonl", folder.name)
        ranking = search(
            task.model, [[b] for b in taken], lambda model, batch: task.loss(batch[0])[0], list(formats),
            method="exhaustive", activation=activation, journal=journal,
        )  # fmt: skip
        rows = {row.name: row for row in ranking}
        found["error"] = np.array([rows[f].error for f in formats])
        found[f"activation/{activation}"] = np.array([rows[f].activation for f in formats])
        found[f"both/{activation}"] = np.array([rows[f].both for f in formats])
    print("measuring errors of tensors", file=sys.stderr, flush=True)
    known = [formats_.get(name) for name in formats]
    for name, values in rivals(task.model, taken[:10], lambda batch: task.loss(batch)[0], known).items():
        found[name] = np.array(values)
    return {name: found[name] for name in INDICATORS}
