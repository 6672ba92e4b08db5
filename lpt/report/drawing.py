"""A figure drawn with matplotlib, into a PNG and an SVG."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .figure import Figure, Series, columns_of, style

PANELS = 12  # choices in one file
FEW = 5  # lines that are labelled at their ends


def draw(figure: Figure, folder: Path) -> list[Path]:
    """Draw `figure` into `folder`: FILE.png and FILE.svg, panels for choices; returns the paths.

    More than PANELS choices go on in FILE-2.png and so on. The same figure gives the same bytes.
    """
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    folder.mkdir(parents=True, exist_ok=True)
    choices: list[str | None] = [*figure.choices] or [None]
    paths = []
    settings: Any = {"svg.hashsalt": figure.file, "axes.spines.top": False, "axes.spines.right": False}
    for page, start in enumerate(range(0, len(choices), PANELS), 1):
        shown = choices[start : start + PANELS]
        with matplotlib.rc_context(settings):
            canvas = Canvas(figsize=_size(figure, len(shown)), layout="constrained")
            columns = min(len(shown), 4)
            rows = -(-len(shown) // columns)
            several = len(shown) > 1  # a scatter plot's x may differ in kind from choice to choice
            axes = canvas.subplots(
                rows, columns, squeeze=False, sharex=several and figure.kind != "scatter", sharey=several
            )
            for axis in axes.flat[len(shown) :]:
                axis.remove()
            handles: dict[str, Any] = {}
            for choice, axis in zip(shown, axes.flat, strict=False):
                handles |= DRAWERS[figure.kind](figure, figure.of_choice(choice), axis)
                if choice is not None:
                    axis.set_title(choice, fontsize=9)
            _frame(figure, canvas, axes, handles, shown)
            for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                stem = figure.file if page == 1 else f"{figure.file}-{page}"
                paths.append(folder / f"{stem}.{suffix}")
                canvas.savefig(paths[-1], dpi=130, metadata=metadata)
    return paths


def _size(figure: Figure, panels: int) -> tuple[float, float]:
    width, height = 8.0, 5.0
    if figure.kind == "heatmap":
        width = max(6.0, 2.5 + 0.55 * max((len(s.x) for s in figure.series), default=1))
        height = max(3.0, 1.5 + 0.35 * len(figure.labels))
    elif figure.kind == "bars":
        width = max(8.0, 0.22 * len(columns_of(figure.series)) * (len(figure.labels) + 1))
    if panels > 1:
        width, height = (3.4, 2.7) if figure.kind in ("lines", "scatter") else (width * 0.7, height * 0.7)
        width, height = width * min(panels, 4), height * -(-panels // 4) + 0.8
    return min(width, 28.0), min(height, 28.0)


def _frame(figure: Figure, canvas: Any, axes: Any, handles: dict[str, Any], shown: list[str | None]) -> None:
    """Title, axis labels and legend of the whole."""
    canvas.suptitle(figure.title, fontsize=11)
    columns = axes.shape[1]
    for i, axis in enumerate(axes.flat[: len(shown)]):
        if i + columns >= len(shown):  # nothing below
            axis.set_xlabel(figure.x.label)
            axis.tick_params(labelbottom=True)
    if figure.kind != "heatmap" and len(shown) > 1:
        canvas.supylabel(figure.y.label, fontsize=10)
    elif figure.kind != "heatmap":
        axes[0, 0].set_ylabel(figure.y.label)
    if not any(len(s.x) for s in figure.series):
        axes[0, 0].text(0.5, 0.5, "no data", transform=axes[0, 0].transAxes, ha="center", color="grey")
    if figure.kind == "heatmap" or not handles:
        return
    if figure.kind == "lines" and len(shown) == 1 and 1 < len(handles) <= FEW:
        _label_ends(canvas, axes[0, 0], handles)
    elif len(handles) > 1 or len(figure.labels) > 1:
        columns = min(len(handles), max(1, int(canvas.get_figwidth() * 12 / (max(map(len, handles)) + 5))))
        canvas.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=8, frameon=False
        )


def _label_ends(canvas: Any, axis: Any, handles: dict[str, Any]) -> None:
    """A label at the right end of each line, moved up or down where two would touch."""
    canvas.draw_without_rendering()
    ends = []
    for label, line in handles.items():
        points = [p for p in axis.transData.transform(line.get_xydata()) if not any(map(math.isnan, p))]
        if points:
            right = max(points, key=lambda p: p[0])
            ends.append((axis.transAxes.inverted().transform(right)[1], label, line))
    least = 14 / 72 / (canvas.get_figheight() * 0.75)  # of the axis' height
    ends.sort(key=lambda end: end[0])
    heights: list[float] = []
    for height, _, _ in ends:
        heights.append(max(height, heights[-1] + least) if heights else height)
    shift = max(0.0, heights[-1] - 1) if heights else 0.0
    for height, (_, label, line) in zip(heights, ends, strict=True):
        axis.annotate(label, (1, height - shift), xycoords="axes fraction", xytext=(6, 0), textcoords="offset points",
                      va="center", fontsize=9, color=line.get_color())  # fmt: skip


def _scales(figure: Figure, axis: Any) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    for name, ruler in (("x", axis.xaxis), ("y", axis.yaxis)):
        if not getattr(figure, name).log:
            continue
        getattr(axis, f"set_{name}scale")("log")
        low, high = ruler.get_view_interval()
        if 1e-3 < low < high < min(1000 * low, 1e5):
            ruler.set_major_locator(LogLocator(subs=(1, 2, 5)) if high > 8 * low else MaxNLocator(5))
            ruler.set_major_formatter("{x:g}")
            ruler.set_minor_formatter(NullFormatter())
    near = {"xytext": (2, 2), "textcoords": "offset points", "fontsize": 8, "color": "grey"}
    if (left := figure.floor("x")) is not None:
        axis.axvline(left, color="grey", linewidth=0.8, linestyle=":")
        axis.annotate("0", (left, 0.96), xycoords=("data", "axes fraction"), **near)
    if (bottom := figure.floor("y")) is not None:
        axis.axhline(bottom, color="grey", linewidth=0.8, linestyle=":")
        axis.annotate("0", (0.01, bottom), xycoords=("axes fraction", "data"), **near)
    axis.grid(alpha=0.3)


def _lines(figure: Figure, series: list[Series], axis: Any) -> dict[str, Any]:
    handles = {}
    for one in series:
        colour, dash = style(figure, one.label)
        x, y = figure.values(one, "x"), figure.values(one, "y")
        marker = "o" if len(x) <= 20 else ""
        (line,) = axis.plot(x, y, color=colour, linestyle=dash, marker=marker, markersize=3.5, linewidth=1.4)
        if len(one.low):
            axis.fill_between(
                x, figure.values(one, "low"), figure.values(one, "high"), color=colour, alpha=0.18, linewidth=0
            )
        handles[one.label] = line
    _scales(figure, axis)
    return handles


def _scatter(figure: Figure, series: list[Series], axis: Any) -> dict[str, Any]:
    handles = {}
    alone = 0
    total = sum(len(s.x) for s in series)
    for one in series:
        colour, dash = style(figure, one.label)
        x, y = figure.values(one, "x"), figure.values(one, "y")
        if len(one.low):
            axis.errorbar(x, y, yerr=_errors(figure, one), fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.6)
        if one.joined:
            (handles[one.label],) = axis.plot(x, y, color=colour, linestyle=dash, linewidth=1.2)
        elif figure.circles(one):
            axis.scatter(x, y, s=36, facecolor="none", edgecolor="black", linewidth=1, zorder=3)
            axis.annotate(one.label, (x[0], y[0]), xytext=(5, -11 if alone % 2 else 5), textcoords="offset points",
                          fontsize=8, zorder=4)  # fmt: skip
            alone += 1
        else:
            size = 9 if total > 100 else 25
            handles[one.label] = axis.scatter(x, y, s=size, color=colour, alpha=0.7, linewidth=0)
    _scales(figure, axis)
    return handles


def _bars(figure: Figure, series: list[Series], axis: Any) -> dict[str, Any]:
    columns = columns_of(figure.series)
    handles = {}
    series = [one for one in series if not all(map(math.isnan, figure.values(one, "y")))]
    width = 0.8 / max(len(series), 1)
    for i, one in enumerate(series):
        places = [columns.index(str(x)) + (i - (len(series) - 1) / 2) * width for x in one.x]
        errors = _errors(figure, one) if len(one.low) else None
        handles[one.label] = axis.bar(
            places, figure.values(one, "y"), width * 0.95, yerr=errors, color=style(figure, one.label)[0],
            error_kw={"elinewidth": 0.9, "ecolor": "#444444"}, capsize=2,
        )  # fmt: skip
    _scales(figure, axis)
    axis.grid(visible=False, axis="x")
    axis.set_xticks(range(len(columns)), columns)
    if sum(map(len, columns)) * max(1, len(figure.choices)) > 70:
        axis.tick_params(axis="x", rotation=40)
        for label in axis.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    return handles


def _heatmap(figure: Figure, series: list[Series], axis: Any) -> dict[str, Any]:
    from matplotlib.colors import LogNorm, Normalize

    columns = columns_of(series)
    rows = [dict(zip(map(str, s.x), figure.values(s, "y"), strict=True)) for s in series]
    values = [[row.get(column, math.nan) for column in columns] for row in rows]
    everything = [v for s in series for v in figure.values(s, "y") if not math.isnan(v)] or [0.0, 1.0]
    norm = (LogNorm if figure.y.log else Normalize)(min(everything), max(everything))
    axis.set_facecolor("#dddddd")
    image = axis.imshow(values, aspect="auto", cmap="cividis", norm=norm)
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axis.set_yticks(range(len(series)), [s.label for s in series], fontsize=8)
    if len(columns) * len(series) <= 150 and not figure.choices:
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if not math.isnan(value):
                    axis.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=7,
                              color="white" if norm(value) < 0.55 else "black")  # fmt: skip
    axis.figure.colorbar(image, ax=axis, label=figure.y.label)
    return {}


DRAWERS: dict[str, Callable[[Figure, list[Series], Any], dict[str, Any]]] = {
    "lines": _lines, "scatter": _scatter, "bars": _bars, "heatmap": _heatmap,
}  # fmt: skip


def _errors(figure: Figure, series: Series) -> list[list[float]]:
    """Distances from y down to low and up to high."""
    y, low, high = (figure.values(series, name) for name in ("y", "low", "high"))
    down = [max(a - b, 0.0) if b == b else 0.0 for a, b in zip(y, low, strict=True)]
    up = [max(b - a, 0.0) if b == b else 0.0 for a, b in zip(y, high, strict=True)]
    return [down, up]
