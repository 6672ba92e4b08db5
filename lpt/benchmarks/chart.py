"""All ratios of a benchmark in one chart: a dot a work, on a logarithmic axis, and a mark where its target lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .measuring import Rows

OURS, OTHERS, MISSED = "#0072B2", "#999999", "#D55E00"


def draw(results: Mapping[str, Any], sections: Mapping[str, str], path: Path) -> list[Path]:
    """Draw the `sections` (name: title) that `results` has, as PATH.png and PATH.svg; returns both."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    parts: dict[str, Rows] = {title: results[name] for name, title in sections.items() if results.get(name)}
    heights = [len(_shown(rows)) + 1 for rows in parts.values()]
    settings: Any = {"svg.hashsalt": path.stem, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(9, 1.6 + 0.24 * sum(heights)), layout="constrained")
        axes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (title, rows) in zip(axes, parts.items(), strict=True):
            _panel(axis, title, _shown(rows))
        dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 6}
        handles = [
            Line2D([], [], color=OURS, label="lpt", **dot),
            Line2D([], [], color=MISSED, label="lpt, target missed", **dot),
            Line2D([], [], color=OTHERS, label="others", **dot),
            Line2D([], [], color="black", linestyle="", marker="|", markersize=11, label="target (at most)"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9)
        paths = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
        for one, metadata in zip(paths, ({"Software": None}, {"Date": None}), strict=True):
            figure.savefig(one, dpi=130, metadata=metadata)
    return paths


def _shown(rows: Rows) -> Rows:
    """Without the works that the others are compared with, whose ratio is 1, and without parts of steps."""
    return {name: row for name, row in rows.items() if row["base"] != name and "probe" not in name}


def _panel(axis: Any, title: str, rows: Rows) -> None:
    other_names = any(name.startswith("lpt ") for name in rows)  # where peers are, ours say so
    for i, (name, row) in enumerate(rows.items()):
        ratio, target = float(row["ratio"]), row.get("target")
        missed = target is not None and ratio > float(target)
        foreign = name.startswith("fp32") or (other_names and not name.startswith("lpt "))
        colour = OTHERS if foreign else MISSED if missed else OURS
        axis.plot([row["low"], row["high"]], [i, i], color=colour, linewidth=2, alpha=0.5)
        axis.plot([ratio], [i], "o", color=colour, markersize=6)
        axis.annotate(f"{ratio:.3g}", (1, i), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=colour)
        if target is not None:
            axis.plot([target], [i], "|", color="black", markersize=11, markeredgewidth=1.6)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    values = [float(row[key]) for row in rows.values() for key in ("low", "high", "target") if key in row]
    axis.set_xlim(min(0.9, *values) * 0.9, max(2.0, *values) * 1.2)
    ticks = [t for t in (0.5, 1, 1.5, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000) if t < max(2.0, *values) * 1.2]
    if len(ticks) > 9:
        ticks = [t for t in ticks if t not in (1.5, 3, 4)]
    axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
    axis.minorticks_off()
    axis.set_yticks(range(len(rows)), list(rows), fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="x", alpha=0.3)
    axis.set_title(title, fontsize=10, loc="left")
