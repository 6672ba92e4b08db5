"""The figures of a search: what the angle depends on, and what a small angle costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .drawing import draw as draw_figure
from .figure import Axis, Figure, Series

if TYPE_CHECKING:
    from ..search import Ranking

LABELLED = ("fp134", "fp143", "fp152", "int8")
ANGLES = {
    "error": "error E quantized", "activation": "activation A quantized", "both": "E and A quantized",
    "whole": "everything quantized, forward and back",
}  # fmt: skip


def draw(ranking: Ranking, folder: Path, title: str) -> list[Path]:
    """Draw every figure as PNG and SVG into `folder`; returns the PNGs."""
    made = figures([row.record() for row in ranking], [ranking.by], ranking.costs)
    few = min(row.batches for row in ranking)
    batches = f"{few} to {ranking.batches}" if few < ranking.batches else f"{few}"
    for figure in made:
        figure.title = f"{title}: {len(ranking)} formats, {batches} mini-batches each"
    if measured := sum(1 for row in ranking if row.error_layers):
        made.append(layers(ranking))
        made[-1].title = f"{title}: {measured} formats, {ranking.detailed // measured} mini-batches each"
    return [path for figure in made for path in draw_figure(figure, folder) if path.suffix == ".png"]


def figures(records: Sequence[dict[str, Any]], kinds: Sequence[str], costs: str) -> list[Figure]:
    """Of rows as `Row.record` gives them, whose costs are what `costs` says.

    If there is more than one kind of angle, one of them is to be chosen.
    """
    by_range, by_cost, by_bits = [], [], []
    for kind in kinds:
        choice = ANGLES[kind] if len(kinds) > 1 else None
        by_range += _points(records, "octaves", kind, choice, [_full_precision(records, choice)])
        by_cost += _points(records, "cost", kind, choice, [_front(records, "cost", kind, choice)])
        by_bits += _points(records, "bits", kind, choice, [_front(records, "bits", kind, choice)])
    either = [row[kind] for row in records for kind in ("error", "activation")]
    ends = [min((v for v in either if v > 0), default=1.0), max(either, default=1.0)]
    equal = Series("equal", ends, ends, joined=True)
    angle = "angle" if len(kinds) > 1 else f"angle, {ANGLES[kinds[0]]}"
    y = Axis(f"{angle} (degrees)", log=True)
    error, activation = (Axis(f"angle, {ANGLES[kind]} (degrees)", log=True) for kind in ("error", "activation"))
    cost = Axis(f"gate equivalents of a multiplier-accumulator; {costs.partition(' (')[0]}", log=True)
    made = [
        Figure("dynamic_range", "Angle and dynamic range", "scatter", Axis("dynamic range (octaves)"), y, by_range),
        Figure("error_activation", "Errors and activations", "scatter", activation, error,
               _points(records, "activation", "error", None, [equal])),
        Figure("pareto", "Angle and cost", "scatter", cost, y, by_cost),
    ]  # fmt: skip
    if any(row["bits"] % 1 for row in records):  # blocks, whose scales count
        bits = Axis("bits of an operand, its share of scales included")
        made.append(Figure("bits", "Angle and bits", "scatter", bits, y, by_bits))
    return made


def layers(ranking: Ranking) -> Figure:
    """For the leading formats, the angle of each layer's own gradient."""
    names = [name.removesuffix(".weight") for name in ranking.weights]
    series = [
        Series(f"{row.rank}  {row.name}", names, getattr(row, f"{kind}_layers"), choice=ANGLES[kind])
        for kind in ("error", "activation")
        for row in ranking
        if row.error_layers
    ]
    return Figure("layers", "Angle of each layer", "heatmap", Axis(), Axis("degrees", log=True), series)


def _points(
    records: Sequence[dict[str, Any]], x: str, y: str, choice: str | None, lines: Sequence[Series] = ()
) -> list[Series]:
    """A dot for each row, coloured by its elements' bits; `lines`; and the well-known formats once more, by name."""
    rows = [row for row in records if row[x] is not None and row[y] is not None]
    kinds = sorted({_kind(row) for row in rows}, reverse=True)
    groups = {kind[1]: [row for row in rows if _kind(row) == kind] for kind in kinds}
    known = {row["name"].upper(): [row] for row in rows if row["name"] in LABELLED or row["name"].startswith("posit")}
    best = min(rows, key=lambda row: row["rank"], default=None)
    if best and [best] not in known.values():
        known[f"best: {best['valid_bits'] if is_list(best) else _called(best)}"] = [best]
    dots, circles = (
        [
            Series(label, [r[x] for r in own], [r[y] for r in own], text=[_hover(r) for r in own], choice=choice)
            for label, own in some.items()
        ]
        for some in (groups, known)
    )
    return [*dots, *lines, *circles]


def _kind(row: dict[str, Any]) -> tuple[int, str]:
    """What a dot's colour says: the bits of an element, scales left out, where there is one format."""
    bits = row.get("element_bits") or row["bits"]
    return (0, "several formats") if bits % 1 else (round(bits), f"{bits:.0f} bits")


def _called(row: dict[str, Any]) -> str:
    """A format's name in capitals, a scheme's as it was given."""
    name: str = row["name"]
    return name.upper() if row["valid_bits"] or row.get("element_bits") else name


def _full_precision(records: Sequence[dict[str, Any]], choice: str | None) -> Series:
    """What turns nothing, over the whole width."""
    spans = [row["octaves"] for row in records if row["octaves"] is not None] or [0]
    return Series("full precision", [min(spans), max(spans)], [0.0, 0.0], choice=choice, joined=True)


def _front(records: Sequence[dict[str, Any]], at: str, kind: str, choice: str | None) -> Series:
    """Down a step at every format that no cheaper one equals."""
    corners: list[tuple[float, float]] = []
    for row in sorted((r for r in records if r[at] is not None), key=lambda r: (r[at], r[kind])):
        if not corners:
            corners = [(row[at], row[kind])]
        elif row[kind] < corners[-1][1]:
            corners += [(row[at], corners[-1][1]), (row[at], row[kind])]
    x, y = ([corner[i] for corner in corners] for i in (0, 1))
    return Series("nothing cheaper is better", x, y, choice=choice, joined=True)


def _hover(row: dict[str, Any]) -> str:
    name = row["name"] if is_list(row) else f"{_called(row)} {row['valid_bits']}".rstrip()
    angles = [f"{kind} {row[kind]:.3f} ± {row[f'{kind}_se']:.3f}" for kind in ("error", "activation", "both")]
    cost = "" if row["cost"] is None else f", cost {row['cost']:.0f}"
    return "\n".join([name, f"rank {row['rank']:.0f}, {row['bits']:.4g} bits{cost}", *angles])


def is_list(row: dict[str, Any]) -> bool:
    """Whether it has no name but its valid bits."""
    return row["name"][:1] == "[" and bool(row["valid_bits"])
