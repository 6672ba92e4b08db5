"""The result of a search: formats from best to worst, with what is known of each."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..formats import Blocks, Format
from .candidates import FULL, Candidate
from .cost import Priced
from .parts import Parts
from .suggest import Suggestion

MODEL = "a model (lpt/search/cost.py), in gate equivalents, of a unit with an exact accumulator, not a synthesis"
COLUMNS = (
    "rank", "name", "valid_bits", "bits", "octaves", "error", "error_se", "activation", "activation_se", "both",
    "both_se", "batches", "top", "cost", "pareto",
)  # fmt: skip
# What not every search measures, columns where it did; what they are headed by, and where there are block formats.
MEASURED = {"whole": "whole", "systematic": "systematic, whole", "noise_to_signal": "noise to signal, whole"}
MORE = ("whole", "whole_se", "systematic", "noise_to_signal", "element_bits", "unseen")


@dataclass
class Row:
    """One candidate. Angles in degrees, each with its standard error over batches; cost in gate equivalents.

    `bits`: of an operand, a mean over what reads it. `top`: in the set that the search stands for. `pareto`: no cheaper
    candidate has as small an angle. `unseen`: operands that do not count in what it is ranked by. `whole`, and
    `systematic` with `noise_to_signal` (`lpt.search.draws`): None where they were not measured.
    """

    rank: int
    candidate: Candidate
    bits: float
    error: float
    error_se: float
    activation: float
    activation_se: float
    both: float
    both_se: float
    batches: int
    top: bool
    cost: Priced | None
    pareto: bool = False
    error_layers: tuple[float, ...] = ()
    activation_layers: tuple[float, ...] = ()
    whole: float | None = None
    whole_se: float | None = None
    systematic: float | None = None
    noise_to_signal: float | None = None
    unseen: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.candidate.name

    @property
    def format(self) -> Format | None:
        """The one format that is everywhere; None of a scheme of several."""
        return self.candidate.format

    @property
    def valid_bits(self) -> str:
        """As `lpt.formats.get` reads it; "" for a format that is no list."""
        valid = getattr(self.format, "valid_bits", ())
        runs: list[list[int]] = []
        for v in valid:
            if runs and runs[-1][1] == v:
                runs[-1][0] += 1
            else:
                runs.append([1, v])
        return ",".join(f"{n}x{v}" if n > 1 else f"{v}" for n, v in runs)

    @property
    def element_bits(self) -> int | None:
        """Of a block format, without the share of scales."""
        return self.format.element.bits if isinstance(self.format, Blocks) else None

    @property
    def octaves(self) -> int | None:
        """How many powers of two its values span; None for more than 256 values."""
        one = self.format
        element = one.element if isinstance(one, Blocks) else one
        if element is None or element.bits > 8:
            return None
        smallest, largest = (math.frexp(v)[1] for v in element.values().abs().unique()[[1, -1]].tolist())
        return largest - smallest + 1

    def record(self) -> dict[str, Any]:
        """The entries of `COLUMNS`, and of `MORE` what was measured."""
        record = {name: getattr(self, name) for name in COLUMNS}
        record |= {name: value for name in MORE if (value := getattr(self, name)) not in (None, ())}
        if self.unseen:
            record["unseen"] = " ".join(self.unseen)
        record["cost"] = None if self.cost is None else round(self.cost.total, 1)
        return record


@dataclass
class Ranking(Sequence[Row]):
    """Rows from best to worst, and how they were found; `str` is a table.

    Args:
        rows: best first.
        by: "error", "activation", "both" or "whole".
        method: "race" or "exhaustive".
        confidence: probability that the first `top` rows are those of an exhaustive search, up to formats that differ
            by less than 0.02 degrees or the standard error of their paired difference; 1 for an exhaustive search.
        top: how many rows the confidence is about.
        evaluations: pairs of format and batch that were measured; `exhaustive` is how many there are.
        batches: mini-batches that were run.
        detailed: evaluations made once more, for the angles of each layer.
        settings: what was measured, and how: lines to print.
        weights: names of the weights whose gradient it is.
        costs: what the rows' costs are.
        products: names of the products, where slots were looked at.
        parts: candidate -> what each slot of each product costs alone (`lpt.search.parts`).
        suggestion: a mixed assignment, if one was asked for.
    """

    rows: list[Row]
    by: str
    method: str
    confidence: float
    top: int
    evaluations: int
    exhaustive: int
    batches: int
    detailed: int = 0
    settings: list[str] = field(default_factory=list)
    weights: list[str] = field(default_factory=list)
    costs: str = MODEL
    products: list[str] = field(default_factory=list)
    parts: dict[str, Parts] = field(default_factory=dict)
    suggestion: Suggestion | None = None

    def __post_init__(self) -> None:
        best = float("inf")
        for row in sorted(self.rows, key=lambda row: (row.cost.total if row.cost else 0.0, self.angle(row))):
            if row.cost is not None and self.angle(row) < best:
                row.pareto, best = True, self.angle(row)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def angle(self, row: Row) -> float:
        """What `row` is ranked by."""
        value: float = getattr(row, self.by)
        return value

    def find(self, name: str) -> Row | None:
        """The row of the format called `name`."""
        return next((row for row in self.rows if row.name == name), None)

    def records(self) -> list[dict[str, Any]]:
        """All rows, each with the same entries in the same order; None where one was not measured."""
        records = [row.record() for row in self.rows]
        columns = [*COLUMNS, *(name for name in MORE if any(name in record for record in records))]
        return [{name: record.get(name) for name in columns} for record in records]

    def csv(self) -> str:
        text = io.StringIO()
        records = self.records()
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        return text.getvalue()

    def table(self, rows: int = 20, names: Sequence[str] = ()) -> str:
        """The first `rows` rows, and those of `names` wherever they stand."""
        shown = [row for row in self.rows if row.rank <= rows or row.name in names]
        head = ("rank", "name", "valid bits per octave", "bits", "error", "activation", "both", "batches", "cost")
        more = [name for name in MEASURED if any(getattr(row, name) is not None for row in shown)]
        lines = [(*head, *(MEASURED[name] for name in more), ""), *(_cells(row, more) for row in shown)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        left = {1, 2, len(lines[0]) - 1}
        aligned = [[c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
                   for line in lines]  # fmt: skip
        return "\n".join("  ".join(line).rstrip() for line in aligned)

    def summary(self) -> str:
        """What was spent, and how sure the top is."""
        share = f"{self.exhaustive / self.evaluations:.1f} times fewer than {self.exhaustive:,}"
        more = f", {self.detailed:,} once more for their layers" if self.detailed else ""
        spent = f"{self.evaluations:,} evaluations of a format on a batch{more}"
        if self.method == "exhaustive":
            return f"{spent}: every format on every one of {self.batches} batches"
        return (
            f"{spent} ({share} of an exhaustive search), {self.batches} batches; the first {self.top} are right with "
            f"{self.confidence:.1%} confidence, up to formats closer than 0.02 degrees or their paired standard error"
        )

    def __str__(self) -> str:
        return "\n".join([*self.settings, "", self.table(), "", self.summary()])


def _cells(row: Row, more: Sequence[str]) -> tuple[str, ...]:
    def angle(value: float, error: float) -> str:
        return f"{value:.3f} ± {error:.3f}"

    def other(name: str) -> str:
        value, error = getattr(row, name), getattr(row, f"{name}_se", None)
        return "-" if value is None else angle(value, error) if error is not None else f"{value:.3f}"

    unseen = [f"(unseen: {', '.join(row.unseen)})"] if row.unseen else []
    nothing = ["(rounds nothing here)"] * (row.bits == FULL)
    mark = " ".join(["top"] * row.top + ["pareto"] * row.pareto + unseen + nothing)
    name = row.name if not (row.name.startswith("[") and row.valid_bits) else "-"
    return (
        str(row.rank), name, row.valid_bits or "-", f"{row.bits:.4g}", angle(row.error, row.error_se),
        angle(row.activation, row.activation_se), angle(row.both, row.both_se), str(row.batches),
        f"{row.cost.total:.0f}" if row.cost else "-", *map(other, more), mark,
    )  # fmt: skip
