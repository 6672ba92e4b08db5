"""How each kind of figure is drawn into an axis of matplotlib; each function returns the legend's handles by label."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .figure import DASHES, Figure, Series, Style, columns_of
from .labels import Label

Handles = dict[str, Any]
HATCHES = dict(zip(DASHES, ("", "///", "...", "xxx"), strict=True))  # of bars, which have no dashes
SHOWN = 150  # a heatmap of no more cells shows its numbers


def scales(figure: Figure, axis: Any) -> None:
    """Logarithmic scales (where anything is positive) with plain numbers, where zeros lie, and the grid."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    for name, ruler in (("x", axis.xaxis), ("y", axis.yaxis)):
        if not getattr(figure, name).log or not ruler.get_data_interval()[1] > 0:  # zeros alone have no logarithm
            continue
        getattr(axis, f"set_{name}scale")("log")
        low, high = ruler.get_view_interval()
        ruler.set_minor_formatter(NullFormatter())
        if 1e-3 < low < high < min(1000 * low, 1e5):
            few = high > 8 * low
            ruler.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)) if few else MaxNLocator(5))
            ruler.set_major_formatter("{x:g}")
    near = {"xytext": (2, 2), "textcoords": "offset points", "fontsize": 8, "color": "grey"}
    if (left := figure.floor("x")) is not None:
        axis.axvline(left, color="grey", linewidth=0.8, linestyle=":")
        axis.annotate("0", (left, 0.96), xycoords=("data", "axes fraction"), **near)
    if (bottom := figure.floor("y")) is not None:
        axis.axhline(bottom, color="grey", linewidth=0.8, linestyle=":")
        axis.annotate("0", (0.01, bottom), xycoords=("axes fraction", "data"), **near)
    axis.grid(alpha=0.3)


def lines(figure: Figure, series: list[Series], axis: Any, style: Style, labels: list[Label]) -> Handles:
    handles = {}
    for one in series:
        colour, dash = style(one.label)
        x, y = figure.values(one, "x"), figure.values(one, "y")
        marker = "o" if len(x) <= 20 and not one.stepped else ""
        how = {"drawstyle": "steps-post"} if one.stepped else {}
        (line,) = axis.plot(x, y, color=colour, linestyle=dash, marker=marker, markersize=3.5, linewidth=1.3, **how)
        if len(one.low):
            low, high = figure.values(one, "low"), figure.values(one, "high")
            axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        handles[one.label] = line
    scales(figure, axis)
    return handles


def scatter(figure: Figure, series: list[Series], axis: Any, style: Style, labels: list[Label]) -> Handles:
    handles = {}
    total = sum(len(s.x) for s in series if not s.joined)
    for one in series:
        colour, dash = style(one.label)
        x, y = figure.values(one, "x"), figure.values(one, "y")
        if len(one.low):
            axis.errorbar(x, y, yerr=_errors(figure, one), fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.6)
        if one.joined:
            (handles[one.label],) = axis.plot(x, y, color=colour, linestyle=dash, linewidth=1.2)
        elif figure.circles(one):
            axis.scatter(x, y, s=36, facecolor="none", edgecolor="black", linewidth=1, zorder=3)
            labels.append((axis, one.label, x[0], y[0]))
        else:
            size = 9 if total > 100 else 25
            handles[one.label] = axis.scatter(x, y, s=size, color=colour, alpha=0.7, linewidth=0)
    scales(figure, axis)
    return handles


def bars(figure: Figure, series: list[Series], axis: Any, style: Style, labels: list[Label]) -> Handles:
    columns = columns_of(figure.series)
    handles = {}
    series = [one for one in series if not all(map(math.isnan, figure.values(one, "y")))]
    width = 0.8 / max(len(series), 1)
    for i, one in enumerate(series):
        places = [columns.index(str(x)) + (i - (len(series) - 1) / 2) * width for x in one.x]
        errors = _errors(figure, one) if len(one.low) else None
        colour, dash = style(one.label)
        handles[one.label] = axis.bar(
            places, figure.values(one, "y"), width * 0.95, yerr=errors, color=colour, hatch=HATCHES[dash],
            edgecolor="white", linewidth=0,
            error_kw={"elinewidth": 0.9, "ecolor": "#444444"}, capsize=2,
        )  # fmt: skip
    scales(figure, axis)
    axis.grid(visible=False, axis="x")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_xlim(-0.5, max(len(columns), 1) - 0.5)
    if sum(map(len, columns)) * max(1, len(figure.choices)) > 70:
        axis.tick_params(axis="x", rotation=40)
        for label in axis.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    return handles


def dots(figure: Figure, series: list[Series], axis: Any, style: Style, labels: list[Label]) -> Handles:
    """Rows from top to bottom, a dot at each value with a bar from low to high; marks where a series is `joined`."""
    rows = columns_of(figure.of_choice(series[0].choice) if series else [])
    handles = {}
    for one in series:
        colour, _ = style(one.label)
        places = [rows.index(str(x)) for x in one.x]
        values = figure.values(one, "y")
        if one.joined:
            (handles[one.label],) = axis.plot(values, places, "|", color="black", markersize=11, markeredgewidth=1.6)
            continue
        if len(one.low):
            axis.hlines(places, figure.values(one, "low"), figure.values(one, "high"), color=colour, alpha=0.5, lw=2)
        (handles[one.label],) = axis.plot(values, places, "o", color=colour, markersize=6)
        for place, value in zip(places, values, strict=True):
            if math.isnan(value):
                continue
            axis.annotate(f"{value:.3g}", (1, place), xycoords=("axes fraction", "data"), va="center", fontsize=8,
                          color=colour, xytext=(3, 0), textcoords="offset points")  # fmt: skip
    if figure.y.log:
        axis.set_xscale("log")
        low, high = axis.get_xlim()
        ticks = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
        ticks = ticks if len(ticks) < 9 else [t for t in ticks if f"{t:e}"[0] == "1"]
        axis.set_xticks(ticks, [f"{t:g}" for t in ticks])
        axis.minorticks_off()
        if low < 1 < high:
            axis.axvline(1, color="black", linewidth=0.8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="x", alpha=0.3)
    return handles


def heatmap(figure: Figure, series: list[Series], axis: Any, style: Style, labels: list[Label]) -> Handles:
    from matplotlib.colors import LogNorm, Normalize

    columns = columns_of(series)
    rows = [dict(zip(map(str, s.x), figure.values(s, "y"), strict=True)) for s in series]
    values = [[row.get(column, math.nan) for column in columns] for row in rows]
    everything = [v for s in figure.series for v in figure.values(s, "y") if not math.isnan(v)] or [1.0, 2.0]
    norm = (LogNorm if figure.y.log else Normalize)(min(everything), max(everything))
    axis.set_facecolor("#dddddd")
    image = axis.imshow(values, aspect="auto", cmap="cividis", norm=norm)
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axis.set_yticks(range(len(series)), [s.label for s in series], fontsize=8)
    if len(columns) * len(series) <= SHOWN and not figure.choices:
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                if not math.isnan(value):
                    axis.text(j, i, f"{value:.3g}", ha="center", va="center", fontsize=7,
                              color="white" if norm(value) < 0.55 else "black")  # fmt: skip
    bar = axis.figure.colorbar(image, ax=axis, label=figure.y.label)
    if figure.y.log and max(everything) < 1000 * min(everything):
        from matplotlib.ticker import LogLocator, NullFormatter

        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        bar.ax.yaxis.set_major_formatter("{x:g}")
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    return {}


DRAWERS: dict[str, Callable[[Figure, list[Series], Any, Style, list[Label]], Handles]] = {
    "lines": lines, "scatter": scatter, "bars": bars, "dots": dots, "heatmap": heatmap,
}  # fmt: skip


def _errors(figure: Figure, series: Series) -> list[list[float]]:
    """Distances from y down to low and up to high."""
    y, low, high = (figure.values(series, name) for name in ("y", "low", "high"))
    down = [max(a - b, 0.0) if b == b else 0.0 for a, b in zip(y, low, strict=True)]
    up = [max(b - a, 0.0) if b == b else 0.0 for a, b in zip(y, high, strict=True)]
    return [down, up]
