"""Do the angles, measured without training, predict what training in a format gives? Spearman's correlations.

36 formats of 8 to 3 bits, 5 seeds each: a narrow ResNet-8 trained on digits from scratch for 300 steps with its data
flow in that format and weights in full precision. The angles are those of `lpt.search` on the same network trained in
full precision (seed 0), exhaustively over 100 mini-batches. Overrides are those of train.py, and `seeds=N`.
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
from .. import saved
from ..build import build
from ..errors import UserError
from ..experiment import make_task
from ..folder import replace
from ..report.correlation import draw
from ..search import Journal, search
from ..searching import take
from ._rivals import NAMES as RIVALS
from ._rivals import rivals
from ._trainings import composed, trained

# From good to useless: floats, integers, logarithms, posits, and members of the family between them.
FORMATS = (
    "fp125", "fp134", "fp143", "fp152", "fp161", "int8", "posit8_0", "posit8_1", "posit8_2",
    "[7,5,4x4,3x3,2,1]", "[7,5,11x3,2,1]", "[4x5,3x4,9x3,2,1]",
    "fp124", "fp133", "fp142", "fp151", "int7", "[6,4,4x3,3x2,1]",
    "fp123", "fp132", "fp141", "fp150", "fp160", "int6", "[5,3,4x2,3x1]", "[5,3,11x1]", "[4x3,3x2,9x1]",
    "fp122", "fp131", "fp140", "int5", "fp121", "log4", "int4", "log3", "int3",
)  # fmt: skip
TRAINING = ("model.width=8", "trainer.max_steps=300", "paths.outputs=outputs/correlation")
SEEDS = 5
BATCHES = 100
INDICATORS = ("error", "activation/local", "both/local", "activation/propagated", "both/propagated", *RIVALS)
RESULTS = ("val/loss", "train/loss", "val/accuracy")
RESAMPLES = 2000
Array = NDArray[np.float64]


def run(overrides: list[str]) -> None:
    """Train what is not trained yet, measure, and write outputs/correlation/correlation.{md,csv,png,svg}."""
    seeds, overrides = _seeds(overrides)
    given = [*TRAINING, *overrides]
    trainings = _trainings(given, seeds)
    indicators = _indicators(given)
    folder = Path(composed("fp32", 0, given).paths.outputs)
    text = report(indicators, trainings)
    replace(folder / "correlation.csv", _csv(indicators, trainings))
    replace(folder / "correlation.md", text + "\n")
    bits = [formats_.get(name).bits for name in FORMATS]
    draw(indicators, trainings["val/loss"].mean(1), bits, list(FORMATS), folder / "correlation")
    print(f"{text}\n\neverything: {folder}/correlation.md, .csv, .png, .svg")


def report(indicators: dict[str, Array], trainings: dict[str, Array]) -> str:
    """Markdown: correlations over all formats and over the better half, each with a bootstrap interval of 95 %."""
    formats, seeds = trainings["val/loss"].shape
    order = np.argsort(trainings["val/loss"].mean(1))
    lines = [f"{formats} formats, {seeds} seeds each; Spearman's correlation [95 % bootstrap interval]", ""]
    for title, rows in (("all formats", order), ("the better half by validation loss", order[: formats // 2])):
        lines += [f"| {title} ({len(rows)}) | " + " | ".join(RESULTS) + " |", "|---|" + "---|" * len(RESULTS)]
        for name, values in indicators.items():
            cells = [_cell(values[rows], trainings[result][rows]) for result in RESULTS]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        halves = [_halves(trainings[result][rows]) for result in RESULTS]
        lines += ["| (the result itself, with other seeds) | " + " | ".join(halves) + " |", ""]
    return "\n".join(lines).rstrip()


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


def _trainings(overrides: Sequence[str], seeds: int) -> dict[str, Array]:
    """Results [formats, seeds]; a run that diverged has the loss of the worst and the accuracy of guessing."""
    found: dict[str, Array] = {name: np.full((len(FORMATS), seeds), np.nan) for name in RESULTS}
    for seed in range(seeds):
        for i, format in enumerate(FORMATS):
            place = f"[{seed * len(FORMATS) + i + 1}/{seeds * len(FORMATS)}] "
            _, summary = trained(format, seed, overrides, place)
            for name in RESULTS:
                value = summary.get(name)
                found[name][i, seed] = np.nan if value is None or summary["status"] != "finished" else value
    for name, values in found.items():
        values[np.isnan(values)] = np.nanmin(values) if name == "val/accuracy" else np.nanmax(values)
    return found


def _indicators(overrides: Sequence[str]) -> dict[str, Array]:
    """By name, one value for each format."""
    folder, _ = trained("fp32", 0, overrides)
    cfg = composed("fp32", 0, overrides)
    task: Any = make_task(cfg, build("trainer", cfg.trainer))
    saved.load(task.model, folder)
    batches = take(task, BATCHES)
    found: dict[str, Array] = {}
    for activation in ("local", "propagated"):
        print(f"measuring angles, activations {activation}", file=sys.stderr, flush=True)
        journal = Journal(folder.parent / f"angles_{activation}.jsonl", folder.name)
        ranking = search(
            task.model, [[b] for b in batches], lambda model, batch: task.loss(batch[0])[0], FORMATS,
            method="exhaustive", activation=activation, journal=journal,
        )  # fmt: skip
        rows = {row.name: row for row in ranking}
        found["error"] = np.array([rows[f].error for f in FORMATS])
        found[f"activation/{activation}"] = np.array([rows[f].activation for f in FORMATS])
        found[f"both/{activation}"] = np.array([rows[f].both for f in FORMATS])
    print("measuring errors of tensors", file=sys.stderr, flush=True)
    formats = [formats_.get(name) for name in FORMATS]
    for name, values in rivals(task.model, batches[:10], lambda batch: task.loss(batch)[0], formats).items():
        found[name] = np.array(values)
    return {name: found[name] for name in INDICATORS}


def _csv(indicators: dict[str, Array], trainings: dict[str, Array]) -> str:
    head = ["format", *indicators, *(f"{r}/{s}" for r, v in trainings.items() for s in range(v.shape[1]))]
    lines = [",".join(head)]
    for i, format in enumerate(FORMATS):
        values = [v[i] for v in indicators.values()] + [x for v in trainings.values() for x in v[i]]
        lines.append(",".join([f'"{format}"', *(f"{value:.6g}" for value in values)]))
    return "\n".join(lines) + "\n"


def _seeds(overrides: list[str]) -> tuple[int, list[str]]:
    own = [o.partition("=")[2] for o in overrides if o.startswith("seeds=")]
    if own and not (own[-1].isdigit() and int(own[-1]) > 0):
        raise UserError(f"seeds={own[-1]}: give a whole number from 1 upward")
    return (int(own[-1]) if own else SEEDS), [o for o in overrides if not o.startswith("seeds=")]
