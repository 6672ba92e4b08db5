"""Learning and flip curves of finished runs, and a table of their last values.

    python scripts/curves.py outputs/RUN [outputs/RUN ...] --out docs/figure.png

Runs that differ only in their seed are drawn in one colour, their mean as a thick line. The table on standard output
gives, for each configuration, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lpt.runs.terminal import show_anything

PANELS = [("val/accuracy", "validation accuracy", False), ("train/loss", "training loss", False)]
PANELS += [("flip_frequency", "flip frequency (share of weights a step)", True)]
LAST = ["val/accuracy", "train/loss", "flip_frequency", "angle/flow", "angle/gradient"]


def main() -> int:
    show_anything()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of runs")
    parser.add_argument("--out", type=Path, help="a .png or .svg to draw")
    args = parser.parse_args()
    groups: dict[str, list[dict[str, Any]]] = {}
    for folder in args.runs:
        try:
            run = read(folder)
        except (OSError, ValueError) as error:
            print(f"error: {folder} is not a run's folder with metrics.csv and summary.json: {error}", file=sys.stderr)
            return 2
        groups.setdefault(run["label"], []).append(run)
    print(table(groups))
    if args.out:
        draw(groups, args.out)
    return 0


def read(folder: Path) -> dict[str, Any]:
    """A run's summary, its label and its curves: {metric: [(step, value), ...]}."""
    summary = json.loads((folder / "summary.json").read_text())
    curves: dict[str, list[tuple[int, float]]] = {metric: [] for metric, _, _ in PANELS}
    with (folder / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for metric, points in curves.items():
                if row.get(metric):
                    points.append((int(row["step"]), float(row[metric])))
    label = f"{summary['model']} on {summary['data']}, format {summary['format']}, weights {summary['weights']}"
    return {"summary": summary, "label": label, "curves": curves}


def table(groups: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: mean ± standard deviation over the seeds of each configuration."""
    lines = [
        "| configuration | seeds | status | " + " | ".join(LAST) + " |",
        "|" + "---|" * (3 + len(LAST)),
    ]
    for label, runs in groups.items():
        summaries = [run["summary"] for run in runs]
        status = ", ".join(sorted({s["status"] for s in summaries}))
        cells = [spread([s.get(key) for s in summaries]) for key in LAST]
        lines.append(f"| {label} | {len(runs)} | {status} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: list[Any]) -> str:
    numbers = [v for v in values if isinstance(v, (int, float))]
    if not numbers:
        return "-"
    deviation = f" ± {statistics.stdev(numbers):.2g}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.4g}{deviation}"


def draw(groups: dict[str, list[dict[str, Any]]], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 4.2), layout="constrained")
    for (metric, title, logarithmic), axis in zip(PANELS, axes, strict=True):
        for colour, (label, runs) in enumerate(groups.items()):
            curves = [dict(run["curves"][metric]) for run in runs if run["curves"][metric]]
            if not curves:
                continue
            steps = sorted(set.intersection(*(set(curve) for curve in curves)))
            for curve in curves:
                axis.plot(list(curve), list(curve.values()), color=f"C{colour}", alpha=0.3, linewidth=0.8)
            mean = [statistics.mean(curve[step] for curve in curves) for step in steps]
            marker = "." if len(steps) < 3 else None
            axis.plot(steps, mean, color=f"C{colour}", marker=marker, label=f"{label} (n={len(curves)})")
        axis.set(xlabel="optimizer step", title=title)
        axis.grid(alpha=0.3)
        if logarithmic:
            axis.set_yscale("log")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
