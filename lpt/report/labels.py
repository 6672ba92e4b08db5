"""Names beside points and lines, moved until no two touch and none is cut."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

Label = tuple[Any, str, Any, Any]  # an axis, the text, and the point it names
FAR = (6, 14, 24, 36)  # points of print between a point and its name
AROUND = (45, -45, 135, -135, 90, -90, 0, 180)  # degrees, in the order in which they are tried


def beside_points(canvas: Any, labels: Sequence[Label]) -> None:
    """Write each label at the nearest place beside its point that covers no other label, within its axis.

    A place that lies on fewer of the named points is better; a label far from its point gets a thin line to it.
    """
    canvas.draw_without_rendering()
    renderer = canvas.canvas.get_renderer()
    for axis in dict.fromkeys(axis for axis, *_ in labels):
        own = [(text, x, y) for other, text, x, y in labels if other is axis]
        points = [tuple(axis.transData.transform((x, y))) for _, x, y in own]
        frame = axis.get_window_extent(renderer)
        taken: list[tuple[float, float, float, float]] = []
        for (text, x, y), at in sorted(zip(own, points, strict=True), key=lambda one: one[1]):
            written = axis.annotate(
                text, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=8, zorder=4,
                arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": "#666666", "shrinkA": 0, "shrinkB": 3},
            )  # fmt: skip
            written.set_in_layout(False)
            size = written.get_window_extent(renderer)
            shape = size.width, size.height
            best = min(_places(at, shape, canvas.dpi), key=lambda place: _cost(place, frame, taken, points))
            taken.append(best[:4])
            written.set_position(((best[0] - at[0]) * 72 / canvas.dpi, (best[1] - at[1]) * 72 / canvas.dpi))
            if best[4] <= FAR[0]:
                written.arrow_patch.set_visible(False)


Place = tuple[float, float, float, float, float]  # left, bottom, right, top in pixels; points of print from the point


def _places(at: Any, shape: tuple[float, float], dpi: float) -> list[Place]:
    width, height = shape
    found = []
    for far, degrees in itertools.product(FAR, AROUND):
        dx, dy = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        reach = far * dpi / 72
        left = at[0] + dx * reach - (0 if dx > 0.1 else width if dx < -0.1 else width / 2)
        bottom = at[1] + dy * reach - (0 if dy > 0.1 else height if dy < -0.1 else height / 2)
        found.append((left, bottom, left + width, bottom + height, float(far)))
    return found


def _cost(place: Place, frame: Any, taken: Sequence[Any], points: Sequence[Any]) -> float:
    left, bottom, right, top, far = place
    outside = left < frame.x0 or right > frame.x1 or bottom < frame.y0 or top > frame.y1
    over = sum(left < r + 2 and right > l - 2 and bottom < t + 1 and top > b - 1 for l, b, r, t in taken)  # noqa: E741
    on = sum(left - 4 < x < right + 4 and bottom - 4 < y < top + 4 for x, y in points)
    return 1000 * outside + 300 * over + 60 * on + far


def at_ends(canvas: Any, axis: Any, handles: dict[str, Any]) -> None:
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
