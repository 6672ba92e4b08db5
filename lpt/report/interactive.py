"""A figure for plotly.js: traces and layout, as plain data in the colours of a light page."""

from __future__ import annotations

import html
import math
import textwrap
from typing import Any

from .figure import Figure, Series, columns_of, styles

INK = "#000000"
CELLS = 150  # a heatmap of no more cells shows its numbers
DASHES = {"solid": "solid", "dashed": "dash", "dotted": "dot", "dashdot": "dashdot"}


def plotly(figure: Figure) -> dict[str, Any]:
    """What plotly.js draws ("data", "layout"), and what the page needs for its drop-down and toggles.

    A trace's `meta` holds its `choice` and whether it is a `spread`.
    """
    make = _heatmap if figure.kind == "heatmap" else _traces
    choices = figure.choices
    data = make(figure)
    for trace in data:
        trace["visible"] = trace["meta"]["choice"] in (None, *choices[:1])
    layout: dict[str, Any] = {
        "xaxis": _axis(figure, "x"), "yaxis": _axis(figure, "y"), "barmode": "group", "hovermode": "closest",
        "shapes": _floors(figure),
    }  # fmt: skip
    if figure.kind == "heatmap":
        layout["xaxis"] = {"title": {"text": _text(figure.x.label)}, "type": "category", "automargin": True}
        layout["yaxis"] = {"autorange": "reversed", "type": "category", "automargin": True}
        layout["xaxis"]["showgrid"] = layout["yaxis"]["showgrid"] = False
    if figure.kind == "dots":
        _turn(data, layout)
    return {
        "data": data, "layout": layout, "choices": choices,
        "log": figure.y.log and figure.kind not in ("heatmap", "dots"),
        "spread": any(len(series.low) for series in figure.series), "rows": len(figure.labels),
        "zeros": bool(layout["shapes"]), "kind": figure.kind, "title": figure.title,
    }  # fmt: skip


def _turn(data: list[dict[str, Any]], layout: dict[str, Any]) -> None:
    """Values along x, rows from top to bottom."""
    for trace in data:
        trace["x"], trace["y"], trace["mode"] = trace["y"], trace["x"], "markers"
        if "error_y" in trace:
            trace["error_x"] = trace.pop("error_y")
    layout["xaxis"], layout["yaxis"] = (
        layout["yaxis"],
        {"type": "category", "autorange": "reversed", "automargin": True},
    )
    layout["shapes"] = []


def _traces(figure: Figure) -> list[dict[str, Any]]:
    found = []
    named: set[tuple[str, str | None]] = set()
    style = styles(figure.labels)
    for series in figure.series:
        colour, dash = style(series.label)
        alone = figure.circles(series)
        if alone:
            colour = INK
        x, y = figure.values(series, "x"), figure.values(series, "y")
        key = (series.label, series.choice)
        trace: dict[str, Any] = {
            "type": "bar" if figure.kind == "bars" else "scatter", "name": _text(series.label),
            "x": _named(x), "y": _gaps(y),
            "legendgroup": series.label, "showlegend": not alone and key not in named,
            "meta": {"choice": series.choice}, "customdata": _truth(series),
            "hovertext": [_text(text) for text in series.text], "hovertemplate": _template(figure, series),
        }  # fmt: skip
        named.add(key)
        if figure.kind == "bars":
            trace["marker"] = {"color": colour}
        else:
            joined = figure.kind == "lines" or series.joined
            trace |= {
                "mode": "markers+text" if alone else "lines" + "+markers" * (len(x) <= 20) if joined else "markers",
                "line": {"color": colour, "dash": DASHES[dash], "width": 2}, "connectgaps": False,
                "marker": {"color": colour, "size": 11 if alone else 6, "symbol": "circle-open" if alone else "circle",
                           "opacity": 1 if joined or alone else 0.75},
            }  # fmt: skip
            if joined and figure.kind == "scatter":
                trace["mode"] = "lines"
        if alone:
            trace |= {"text": [_text(series.label)], "textposition": "top right", "cliponaxis": False}
        if len(series.low) and figure.kind == "lines":
            found.append(_band(figure, series, colour))
        elif len(series.low):
            low, high = figure.values(series, "low"), figure.values(series, "high")
            trace["error_y"] = {
                "type": "data", "symmetric": False, "array": _gaps(b - a for a, b in zip(y, high, strict=True)),
                "arrayminus": _gaps(a - b for a, b in zip(y, low, strict=True)), "thickness": 1.2, "width": 3,
                "color": "#888888" if figure.kind == "bars" else colour,
            }  # fmt: skip
        found.append(trace)
    return found


def _band(figure: Figure, series: Series, colour: str) -> dict[str, Any]:
    """From low to high along the line."""
    x, low, high = (figure.values(series, name) for name in ("x", "low", "high"))
    there = [
        i for i in range(len(x)) if not any(isinstance(v, float) and math.isnan(v) for v in (x[i], low[i], high[i]))
    ]
    return {
        "type": "scatter", "mode": "lines", "fill": "toself", "line": {"width": 0, "color": colour}, "opacity": 0.2,
        "fillcolor": colour, "x": _named([x[i] for i in there] + [x[i] for i in reversed(there)]),
        "y": [high[i] for i in there] + [low[i] for i in reversed(there)], "hoverinfo": "skip", "showlegend": False,
        "legendgroup": series.label, "meta": {"choice": series.choice, "spread": True},
    }  # fmt: skip


def _heatmap(figure: Figure) -> list[dict[str, Any]]:
    """A trace for each choice; a logarithmic one is coloured by the logarithm and labelled with the value."""
    found: list[dict[str, Any]] = []
    choices: list[str | None] = [*figure.choices]
    for choice in choices or [None]:
        rows = figure.of_choice(choice)
        columns = columns_of(rows)
        cells = [
            dict(zip(map(str, r.x), zip(r.y, figure.values(r, "y"), r.text or r.x, strict=True), strict=True))
            for r in rows
        ]
        gap = (None, math.nan, "")
        true = [[row.get(column, gap)[0] for column in columns] for row in cells]
        drawn = [[row.get(column, gap)[1] for column in columns] for row in cells]
        bar: dict[str, Any] = {"title": {"text": _text(figure.y.label), "side": "right"}}
        if figure.y.log:
            drawn = [[math.log10(v) for v in row] for row in drawn]
            numbers = [v for row in drawn for v in row if not math.isnan(v)] or [0.0]
            ticks = [
                m * 10.0**k for k in range(math.floor(min(numbers)), math.ceil(max(numbers)) + 1) for m in (1, 2, 5)
            ]
            ticks = [t for t in ticks if min(numbers) <= math.log10(t) <= max(numbers)]
            bar |= {"tickvals": [math.log10(t) for t in ticks], "ticktext": [f"{t:g}" for t in ticks]}
        few = len(columns) * len(rows) <= CELLS
        found.append({
            "type": "heatmap", "x": [_text(c) for c in columns], "y": [_text(row.label) for row in rows],
            "z": [_gaps(row) for row in drawn], "customdata": true, "colorscale": "Cividis", "colorbar": bar,
            "text": [["" if v is None else f"{v:.3g}" for v in row] for row in true], "meta": {"choice": choice},
            "hovertext": [[_text(row.get(c, gap)[2]) for c in columns] for row in cells],
            "texttemplate": "%{text}" if few else "", "hoverongaps": False,
            "hovertemplate": "<b>%{y}</b><br>%{x}: %{text}" + "<br>%{hovertext}" * any(row.text for row in rows)
            + "<extra></extra>",
        })  # fmt: skip
    return found


def _axis(figure: Figure, name: str) -> dict[str, Any]:
    axis = getattr(figure, name)
    title = "\n".join(textwrap.wrap(axis.label, 46))
    entries: dict[str, Any] = {"title": {"text": _text(title), "standoff": 12}, "automargin": True}
    if axis.log:
        values = [v for s in figure.series for v in figure.values(s, name) if v > 0]
        entries |= {"type": "log", "exponentformat": "power"}
        if values and max(values) < 1000 * min(values):  # few decades: plain numbers
            entries |= {"tickformat": "~g"} | ({"dtick": "D2"} if max(values) > 8 * min(values) else {})
        return entries
    if name == "x" and (figure.kind == "bars" or any(isinstance(v, str) for s in figure.series for v in s.x)):
        entries |= {"type": "category", "showgrid": False}
    return entries


def _floors(figure: Figure) -> list[dict[str, Any]]:
    """The dotted lines on which zeros of logarithmic axes lie."""
    shapes = []
    for name, across in (("x", "y"), ("y", "x")):
        if (floor := figure.floor(name)) is not None and figure.kind != "heatmap":
            place = {f"{name}0": floor, f"{name}1": floor, f"{across}0": 0, f"{across}1": 1, f"{across}ref": "paper"}
            shapes.append({"type": "line", "line": {"dash": "dot", "width": 1, "color": "#888888"}, **place})
    return shapes


def _template(figure: Figure, series: Series) -> str:
    x = "%{x}" if any(isinstance(v, str) for v in series.x) else "%{customdata[3]}"
    lines = ["<b>%{fullData.name}</b>"]
    if len(series.text):
        lines.append("%{hovertext}")
    lines += [f"{_label(figure.x.label)}: {x}", f"{_label(figure.y.label)}: %{{customdata[0]}}"]
    if len(series.low):
        lines.append("from %{customdata[1]} to %{customdata[2]}")
    return "<br>".join(lines) + "<extra></extra>"


def _truth(series: Series) -> list[list[Any]]:
    """[y, low, high, x] of each point as read, where a zero on a logarithmic axis is drawn elsewhere."""
    blank = [None] * len(series.x)
    columns = (series.y, series.low or blank, series.high or blank, series.x)
    return [_named(f"{v:.4g}" if isinstance(v, float) else v for v in point) for point in zip(*columns, strict=True)]


def _gaps(values: Any) -> list[Any]:
    return [None if isinstance(v, float) and math.isnan(v) else v for v in values]


def _named(values: Any) -> list[Any]:
    """Numbers as they are, names as plotly takes text."""
    return [_text(v) if isinstance(v, str) else v for v in values]


def _text(text: Any) -> str:
    """Text for plotly, which reads some of HTML."""
    return html.escape(str(text), quote=False).replace("\n", "<br>")


def _label(text: str) -> str:
    """Text inside of a template."""
    return _text(text).replace("%{", "% {") or "value"
