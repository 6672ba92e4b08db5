"""The figures of a search: what the angle depends on, and what a small angle costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..search import Ranking, Row

LABELLED = ("fp134", "fp143", "fp152", "int8")
COLOURS = {8: "tab:blue", 7: "tab:orange", 6: "tab:green"}
ANGLES = {"error": "error E quantized", "activation": "activation A quantized", "both": "E and A quantized"}


def draw(ranking: Ranking, folder: Path, title: str) -> list[Path]:
    """Draw every figure as PNG and SVG into `folder`; returns the PNGs."""
    from matplotlib.figure import Figure

    drawings: list[tuple[str, Callable[[Any, Ranking], None]]] = [
        ("dynamic_range", dynamic_range), ("error_activation", error_activation), ("pareto", pareto),
    ]  # fmt: skip
    if any(row.error_layers for row in ranking):
        drawings.append(("layers", layers))
    made = []
    for name, drawing in drawings:
        figure = Figure(figsize=(8, 5.5), layout="constrained")
        drawing(figure, ranking)
        figure.suptitle(title, fontsize=10)
        for suffix in ("png", "svg"):
            figure.savefig(folder / f"{name}.{suffix}", dpi=130)
        made.append(folder / f"{name}.png")
    return made


def dynamic_range(figure: Any, ranking: Ranking) -> None:
    """Angle against the octaves that a format spans."""
    axis = figure.subplots()
    rows = [row for row in ranking if row.octaves is not None]
    _points(axis, rows, lambda row: (row.octaves, ranking.angle(row)))
    axis.set_yscale("function", functions=(lambda y: np.sqrt(np.maximum(y, 0)), np.square))
    axis.axhline(0, color="black", linewidth=1)
    axis.annotate("full precision", (1, 0), xycoords=("axes fraction", "data"), xytext=(-4, 3),
                  textcoords="offset points", ha="right", fontsize=8)  # fmt: skip
    largest = max(ranking.angle(row) for row in rows)
    ticks = [t for t in (0, 1, 2, 5, 10, 20, 30, 45, 60, 90) if t <= largest * 1.1] or [0]
    axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axis.set(xlabel="dynamic range (octaves)", ylabel=f"angle, {ANGLES[ranking.by]} (degrees, root scale)")
    axis.set_ylim(0, largest * 1.1)


def error_activation(figure: Any, ranking: Ranking) -> None:
    """The two indicators against each other."""
    axis = figure.subplots()
    rows = [row for row in ranking if row.error > 0 and row.activation > 0]
    _points(axis, rows, lambda row: (row.activation, row.error))
    low = min(min(row.error, row.activation) for row in rows)
    high = max(max(row.error, row.activation) for row in rows)
    axis.plot([low, high], [low, high], color="grey", linewidth=0.8, linestyle=":", label="equal")
    axis.set(xscale="log", yscale="log", xlabel=f"angle, {ANGLES['activation']} (degrees)",
             ylabel=f"angle, {ANGLES['error']} (degrees)")  # fmt: skip
    axis.legend(fontsize=8)


def pareto(figure: Any, ranking: Ranking) -> None:
    """Angle against the modelled cost of a multiplier-accumulator; what nothing cheaper beats is joined."""
    axis = figure.subplots()
    rows = [row for row in ranking if row.cost is not None and ranking.angle(row) > 0]
    _points(axis, rows, lambda row: (row.cost.total if row.cost else 0.0, ranking.angle(row)))
    front = sorted((row.cost.total, ranking.angle(row)) for row in rows if row.pareto and row.cost)
    axis.step(*zip(*front, strict=True), where="post", color="tab:red", linewidth=1, label="not dominated")
    axis.set(xscale="log", yscale="log", xlabel="cost of a multiplier-accumulator (model, gate equivalents)",
             ylabel=f"angle, {ANGLES[ranking.by]} (degrees)")  # fmt: skip
    axis.legend(fontsize=8)


def layers(figure: Any, ranking: Ranking) -> None:
    """For the leading formats, the angle of each layer's own gradient."""
    rows = [row for row in ranking if row.error_layers]
    figure.set_size_inches(4 + 0.6 * len(ranking.weights), 2 + 0.45 * len(rows))
    names = [name.removesuffix(".weight") for name in ranking.weights]
    for i, kind in enumerate(("error", "activation")):
        axis = figure.add_subplot(1, 2, i + 1)
        values = np.array([getattr(row, f"{kind}_layers") for row in rows])
        image = axis.imshow(values, aspect="auto", cmap="viridis")
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        labels = [f"{row.rank}  {row.name}" for row in rows]
        axis.set_yticks(range(len(rows)), labels if i == 0 else [""] * len(rows), fontsize=7)
        axis.set_title(ANGLES[kind], fontsize=9)
        figure.colorbar(image, ax=axis, label="degrees")


def _points(axis: Any, rows: list[Row], place: Callable[[Row], Any]) -> None:
    """One dot a row, coloured by bits; the named ones larger, with their names."""
    for bits in sorted({row.format.bits for row in rows}, reverse=True):
        own = [place(row) for row in rows if row.format.bits == bits]
        axis.scatter(*zip(*own, strict=True), s=9, alpha=0.7, color=COLOURS.get(bits, "grey"), label=f"{bits} bits")
    for i, row in enumerate(row for row in rows if row.name in LABELLED or row.name.startswith("posit")):
        x, y = place(row)
        axis.scatter([x], [y], s=36, facecolor="none", edgecolor="black", linewidth=1)
        axis.annotate(row.name.upper(), (x, y), xytext=(6, 7 if i % 2 else -11), textcoords="offset points", fontsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
