"""The figures of a search of slots: what each operand of each layer costs, and the suggested assignment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .drawing import draw as draw_figure
from .figure import Axis, Figure, Series

if TYPE_CHECKING:
    from ..search import Ranking

FILE = "slots.json"  # for the page: figures and tables
GREY = "grey: not rounded, or nothing is changed by it"
SLOTS = ("x", "w", "dgrad_e", "dgrad_w", "wgrad_e", "wgrad_x")


def draw(ranking: Ranking, folder: Path, title: str) -> list[Path]:
    """Draw every figure as PNG and SVG into `folder`, with a file for the page; returns the PNGs."""
    made = figures(ranking)
    if not made:
        return []
    for figure in made:
        figure.title = f"{title}: {figure.title[0].lower()}{figure.title[1:]}"
    entries = {"figures": [figure.to_dict() for figure in made], "tables": tables(ranking)}
    (folder / FILE).write_text(json.dumps(entries), encoding="utf-8")
    return [path for figure in made for path in draw_figure(figure, folder) if path.suffix == ".png"]


def figures(ranking: Ranking) -> list[Figure]:
    """A map of slots and layers for each candidate that was looked at; angles against cost of the suggestion."""
    made = []
    if ranking.parts:
        several = len(ranking.parts) > 1
        series = [
            Series(slot, list(parts.size), [_shown(parts.angle(product, slot)) for product in parts.size],
                   choice=name if several else None)
            for name, parts in ranking.parts.items() for slot in SLOTS
        ]  # fmt: skip
        first = next(iter(ranking.parts))
        title = "Angle by which one operand of one layer turns the gradient" + ("" if several else f", {first}")
        made.append(Figure("slots", title, "heatmap", Axis(GREY), Axis("degrees", log=True), series))
    if ranking.suggestion is not None:
        made.append(_mixed(ranking.suggestion))
    return made


def _shown(angle: float | None) -> float | None:
    """Nothing where there is nothing to tell: the first layer's input has no gradient, or values are on the grid."""
    return None if angle is None or angle < 0.001 else angle


def _mixed(made: Any) -> Figure:
    uniform = Series("one format everywhere", [m.cost for m in made.uniform], [m.angle for m in made.uniform],
                     text=[m.name for m in made.uniform])  # fmt: skip
    costs, angles = ([point[i] for point in made.front] for i in (0, 1))
    front = Series("mixtures, by the sum of their parts", costs, angles, joined=True)
    names = [Series(m.name, [m.cost], [m.angle]) for m in made.uniform]
    mixed = Series("suggested, measured", [made.mixed.cost], [made.mixed.angle])
    unit = "bits of an operand, mean" if made.spend == "bits" else "gate equivalents of a multiply-add, mean"
    angle = Axis("angle, everything rounded (degrees)", log=True)
    return Figure("mixed", "Mixed assignments", "scatter", Axis(unit), angle, [uniform, front, mixed, *names])


def tables(ranking: Ranking) -> list[dict[str, Any]]:
    """The suggested assignment, a layer a row."""
    made = ranking.suggestion
    if made is None:
        return []
    rows: Sequence[Sequence[Any]] = [[p, *(own.get(slot, "-") for slot in SLOTS)] for p, own in made.choices.items()]
    asked = f"Suggested assignment, {made.asked}: {made.mixed.cost:.4g} {made.unit}, {made.mixed.angle:.2f} degrees"
    return [{"title": asked, "columns": ["layer", *SLOTS], "rows": rows}]
