"""A figure drawn with matplotlib, into a PNG and an SVG; or several on one sheet."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from .figure import Axis, Figure, Style, columns_of, styles
from .kinds import DRAWERS
from .labels import Label, at_ends, beside_points
from .plain import drawn

PANELS = 12  # choices in one file
ACROSS = {"dots": 1, "heatmap": 1}  # panels beside each other; 4 of other kinds
FEW, LONG = 5, 24  # lines that are labelled at their ends, and letters of the longest of these labels


def draw(figure: Figure, folder: Path) -> list[Path]:
    """Draw `figure` into `folder`: FILE.png and FILE.svg, panels for choices; returns the paths.

    More than PANELS choices go on in FILE-2.png and so on. The same figure gives the same bytes.
    """
    figure = _literal(figure)
    choices: list[str | None] = [*figure.choices] or [None]
    paths = []
    for page, start in enumerate(range(0, len(choices), PANELS), 1):
        shown = choices[start : start + PANELS]
        stem = figure.file if page == 1 else f"{figure.file}-{page}"
        paths += _saved(folder, stem, partial(_panels, figure, shown))
    return paths


def sheet(
    figures: Sequence[Figure], folder: Path, stem: str, title: str = "", columns: int = 3,
    suffixes: Sequence[str] = ("png", "svg"),
) -> list[Path]:  # fmt: skip
    """Draw figures beside each other into STEM.png and STEM.svg; a label has one colour on the whole sheet."""

    figures, title = [_literal(figure) for figure in figures], drawn(title)

    def fill(canvas: Any) -> None:
        across = min(columns, len(figures))
        down = -(-len(figures) // across)
        canvas.set_size_inches(max(4.6 * across, 9), (2.6 if columns == 1 else 3.5) * down + 0.4)
        axes = canvas.subplots(down, across, squeeze=False)
        labels = list(dict.fromkeys(label for figure in figures for label in figure.labels))
        style = styles(labels)
        handles: dict[str, Any] = {}
        named: list[Label] = []
        for figure, axis in zip(figures, axes.flat, strict=False):
            own = DRAWERS[figure.kind](figure, figure.series, axis, style, named)
            axis.set(xlabel=figure.x.label, ylabel=textwrap.fill(figure.y.label, 42))
            axis.set_title(figure.title, fontsize=10)
            _no_data(figure, axis)
            if columns == 1 and len(own) > 1:  # rows of different things have a legend each
                axis.legend(own.values(), own.keys(), fontsize=8, frameon=False, loc="best")
            handles |= own
        for axis in axes.flat[len(figures) :]:
            axis.remove()
        if title:
            canvas.suptitle(textwrap.fill(title, int(canvas.get_figwidth() * 11)), fontsize=11)
        if columns > 1 and len(handles) > 1:
            _legend(canvas, handles)
        beside_points(canvas, named)

    return _saved(folder, stem, fill, suffixes)


def _literal(figure: Figure) -> Figure:
    """The figure with all its text as matplotlib shows it letter by letter."""

    def plain(value: Any) -> Any:
        return drawn(value) if isinstance(value, str) else value

    series = [
        replace(one, label=plain(one.label), choice=plain(one.choice), x=[plain(x) for x in one.x])
        for one in figure.series
    ]
    x, y = (replace(axis, label=plain(axis.label)) for axis in (figure.x, figure.y))
    return replace(figure, title=plain(figure.title), x=x, y=y, series=series)


def _saved(
    folder: Path, stem: str, fill: Callable[[Any], None], suffixes: Sequence[str] = ("png", "svg")
) -> list[Path]:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    folder.mkdir(parents=True, exist_ok=True)
    settings: Any = {"svg.hashsalt": stem, "axes.spines.top": False, "axes.spines.right": False}
    settings |= {"axes.formatter.useoffset": False}
    with matplotlib.rc_context(settings):
        canvas = Canvas(layout="constrained")
        FigureCanvasAgg(canvas)
        fill(canvas)
        paths = [folder / f"{stem}.{suffix}" for suffix in suffixes]
        for path in paths:
            metadata: Any = {"Software": None} if path.suffix == ".png" else {"Date": None}
            canvas.savefig(path, dpi=130, metadata=metadata)
    return paths


def _panels(figure: Figure, shown: Sequence[str | None], canvas: Any) -> None:
    """The choices of a figure, with title, axis labels and legend of the whole."""
    canvas.set_size_inches(*_size(figure, len(shown)))
    columns = min(len(shown), ACROSS.get(figure.kind, 4))
    rows = -(-len(shown) // columns)
    several = len(shown) > 1
    alone = figure.kind in ("scatter", "dots")  # x may differ in kind from choice to choice
    heights = [len(columns_of(figure.of_choice(c))) + 1 for c in shown] if figure.kind == "dots" else None
    axes = canvas.subplots(
        rows, columns, squeeze=False, sharex=several and not alone, sharey=several and figure.kind != "dots",
        height_ratios=heights,
    )  # fmt: skip
    for axis in axes.flat[len(shown) :]:
        axis.remove()
    style = styles(figure.labels)
    handles: dict[str, Any] = {}
    named: list[Label] = []
    for i, (choice, axis) in enumerate(zip(shown, axes.flat, strict=False)):
        handles |= DRAWERS[figure.kind](figure, figure.of_choice(choice), axis, style, named)
        if choice is not None:
            axis.set_title(textwrap.fill(choice, 44), fontsize=9, loc="left" if figure.kind == "dots" else "center")
        if i + columns >= len(shown) and several:  # nothing below
            axis.tick_params(labelbottom=True)
            axis.set_xlabel(textwrap.fill(_across(figure)[0].label, 90 if columns == 1 else 38), fontsize=9)
    _frame(figure, canvas, axes, handles, several, style)
    beside_points(canvas, named)


def _size(figure: Figure, panels: int) -> tuple[float, float]:
    width, height = 8.0, 5.0
    choices: list[str | None] = [*figure.choices] or [None]
    if figure.kind == "heatmap":
        width = max(6.0, 2.5 + 0.55 * max((len(s.x) for s in figure.series), default=1))
        height = max(3.0, 1.5 + 0.35 * max(len(figure.of_choice(c)) for c in choices))
    elif figure.kind == "bars":
        width = max(8.0, 0.22 * len(columns_of(figure.series)) * (len(figure.labels) + 1))
    elif figure.kind == "dots":
        return 9.0, 1.6 + 0.24 * sum(len(columns_of(figure.of_choice(c))) + 1 for c in choices)
    if panels > 1:
        width, height = (3.6, 2.9) if figure.kind in ("lines", "scatter") else (width * 0.7, height * 0.8)
        across = min(panels, ACROSS.get(figure.kind, 4))
        width, height = width * across, height * -(-panels // across) + 0.8
    return min(width, 28.0), min(height, 28.0)


def _frame(figure: Figure, canvas: Any, axes: Any, handles: dict[str, Any], several: bool, style: Style) -> None:
    if figure.title:
        canvas.suptitle(textwrap.fill(figure.title, max(40, int(canvas.get_figwidth() * 11))), fontsize=11)
    x, y = _across(figure)
    if not several:
        axes[0, 0].set_xlabel(x.label)
    if figure.kind != "heatmap":
        (canvas.supylabel if several else axes[0, 0].set_ylabel)(y.label, fontsize=10)
    _no_data(figure, axes[0, 0])
    if figure.kind == "heatmap" or not handles:
        return
    short = max(map(len, handles)) <= LONG
    if figure.kind == "lines" and not several and 1 < len(handles) <= FEW and short:
        at_ends(canvas, axes[0, 0], handles)
    elif len(handles) > 1 or len(figure.labels) > 1:
        _legend(canvas, handles)


def _across(figure: Figure) -> tuple[Axis, Axis]:
    """What is drawn from left to right, and what upward."""
    return (figure.y, figure.x) if figure.kind == "dots" else (figure.x, figure.y)


def _no_data(figure: Figure, axis: Any) -> None:
    if not any(len(s.x) for s in figure.series):
        axis.text(0.5, 0.5, "no data", transform=axis.transAxes, ha="center", color="grey")


def _legend(canvas: Any, handles: dict[str, Any]) -> None:
    """Below the figure, in as many columns as its width holds; the figure grows by the legend's height."""
    labels = ["\n".join(textwrap.wrap(label, max(20, int(canvas.get_figwidth() * 13)))) or label for label in handles]
    longest = max(len(line) for label in labels for line in label.split("\n"))
    columns = min(len(labels), max(1, int(canvas.get_figwidth() * 12 / (longest + 6))))
    rows = -(-len(labels) // columns)
    canvas.set_figheight(canvas.get_figheight() + 0.17 * max(0, rows - 1))
    canvas.legend(handles.values(), labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
