"""The paper's comparison of hardware costs: the model, and syntheses with several accumulators, side by side."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from .. import formats
from ..hardware import yosys
from ..hardware.operands import BLOCKS
from ..hardware.synthesis import Workshop
from ..hardware.unit import NoUnit, Unit
from ..report.figure import Axis, Figure, Series
from ..report.sections import Table
from ..runs.synthesizing import TIE, ratio
from ..search.cost import cost
from .makers import Made
from .plan import Plan, Run

MODEL = ("multiplier", "exponent", "alignment", "accumulator", "decoder")
REFERENCE, RIVAL = "fp134", "fp143"


def costs(plan: Plan, runs: Sequence[Run]) -> Made:
    """Gate equivalents by format: the model by part, syntheses by accumulator; where FP134 costs less than FP143."""
    names: list[str] = plan.options["formats"]
    tables, figures = [_model(names)], []
    if not yosys.available():
        return tables, [_bars("model", plan.title, names, {"model": [_modelled(name) for name in names]})], [
            f"nothing was synthesized: pyosys is missing ({yosys.INSTALL}); the figures are those of the model alone"
        ]  # fmt: skip
    workshop = Workshop(plan.outputs / "synthesis")
    accumulators: list[str] = plan.options["accumulators"]
    found = {accumulator: _gates(workshop, names, accumulator) for accumulator in accumulators}
    tables += [_beside(names, found), _claim(found)]
    series = {"model (exact)": [_modelled(name) for name in names]} | {
        accumulator: [gates[name] for name in names] for accumulator, gates in found.items()
    }
    figures.append(_bars("cost", f"{plan.title}: model, and syntheses by accumulator", names, series))
    notes = [
        f"syntheses: {workshop.tool}, library {workshop.library.path.name} (hash {workshop.library.hash}); each "
        "netlist was proven on all pairs of codes before its figures were taken",
        f"areas within {TIE:.0%} of each other are a tie; a pair W*A has the weights' format first",
    ]
    return tables, figures, notes


def _modelled(name: str) -> float | None:
    return None if "*" in name or name in BLOCKS else cost(formats.get(name)).total


def _model(names: Sequence[str]) -> Table:
    reference = cost(formats.get(REFERENCE)).total
    rows = []
    for name in names:
        if _modelled(name) is not None:
            each = cost(formats.get(name))
            parts = [getattr(each, part) for part in MODEL]
            rows.append([name, formats.get(name).bits, *parts, each.total, each.total / reference])
    columns = ["format", "bits", *MODEL, "total", "relative to FP134"]
    return Table("The model: gate equivalents of a multiplier-accumulator with an exact accumulator", columns, rows)


def _gates(workshop: Workshop, names: Sequence[str], accumulator: str) -> dict[str, float | None]:
    """Of each format; None where there is no such unit."""
    found: dict[str, float | None] = {}
    for name in names:
        try:
            unit = Unit.read(name, accumulator)
        except NoUnit:
            found[name] = None
            continue
        print(f"synthesis: {unit.name}", file=sys.stderr, flush=True)
        found[name] = workshop.costs(unit)["gates"]
    return found


def _beside(names: Sequence[str], found: dict[str, dict[str, float | None]]) -> Table:
    rows = []
    for name in names:
        cells: list[Any] = []
        for gates in found.values():
            value, base = gates[name], gates[REFERENCE]
            cells += [value, None if value is None or base is None else ratio(value / base)]
        rows.append([name, _modelled(name), *cells])
    heads = [head for accumulator in found for head in (accumulator, f"{accumulator}, to FP134")]
    return Table("Model and synthesis: gate equivalents by accumulator", ["format", "model, exact", *heads], rows)


def _claim(found: dict[str, dict[str, float | None]]) -> Table:
    """FP134 against FP143."""
    rows: list[list[Any]] = []
    for accumulator, gates in found.items():
        own, other = gates.get(REFERENCE), gates.get(RIVAL)
        if own is not None and other is not None:
            less = "FP134 costs less: the claim holds" if own < other else "FP143 costs less: the claim turns"
            told = "a tie" if abs(own / other - 1) < TIE else less
            rows.append([accumulator, own, other, f"{own / other:.2f}", told])
    said = "; ".join(f"{row[0]}: {row[-1]}" for row in rows)
    return Table("FP134 against FP143", ["accumulator", "FP134", "FP143", "ratio", "verdict"], rows, said)


def _bars(name: str, title: str, names: Sequence[str], values: dict[str, list[float | None]]) -> Figure:
    series = [Series(label, list(names), each) for label, each in values.items()]
    return Figure(name, title, "bars", Axis("format"), Axis("gate equivalents (NAND2)"), series)
