"""A figure as data: what `drawing` makes a PNG and an SVG of, and `interactive` a figure for the page.

    Figure("flips", "Flip frequency", "lines", Axis("step"), Axis("share of weights", log=True),
           [Series("log4", steps, means, low=lows, high=highs), Series("log4_hyst", steps, others)])

As a dict it is JSON: `Figure.of(json.loads(text))` is the figure that `figure.to_dict()` was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

KINDS = ("scatter", "lines", "bars", "dots", "heatmap")
# Okabe and Ito's colours, which the colour-blind can tell apart; after them they come again, dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("solid", "dashed", "dotted", "dashdot")

Value = float | str | None


@dataclass
class Axis:
    """An axis: what it shows, with its unit, and whether it is logarithmic."""

    label: str = ""
    log: bool = False


@dataclass
class Series:
    """Points of one label. `low` and `high` bound `y` (values, not distances); `text` is for hovering, one a point.

    In a heatmap a series is a row: `label` names it, `x` its columns, `y` their values. In a scatter plot a series of
    one point that an earlier series has, too, circles and names it; `joined` points are joined by a line. In dots, x
    are rows, and a `joined` series marks a place in each. None and nan are gaps.
    """

    label: str
    x: Sequence[Value]
    y: Sequence[float | None]
    low: Sequence[float | None] = field(default_factory=list)
    high: Sequence[float | None] = field(default_factory=list)
    text: Sequence[str] = field(default_factory=list)
    choice: str | None = None
    joined: bool = False
    stepped: bool = False  # of lines: a value holds until the next x


@dataclass
class Figure:
    """One figure; series of different `choice` are shown apart, as panels or under a drop-down.

    Raises:
        ValueError: an unknown kind, or sequences of different lengths.
    """

    file: str  # the stem of the drawn files
    title: str
    kind: str
    x: Axis
    y: Axis  # a heatmap's values
    series: list[Series]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"figure {self.file!r}: kind is {self.kind!r}; valid: {', '.join(KINDS)}")
        for series in self.series:
            for name in ("x", "y", "low", "high", "text"):
                got = len(getattr(series, name))
                if got != len(series.x) and (got or name == "y"):
                    where = f"figure {self.file!r}, series {series.label!r}"
                    raise ValueError(f"{where}: {got} values of {name} for {len(series.x)} of x")
            if len(series.low) != len(series.high):
                raise ValueError(f"figure {self.file!r}, series {series.label!r}: low and high belong together")

    @classmethod
    def of(cls, entries: dict[str, Any]) -> Figure:
        """The figure that `to_dict` was called on.

        Raises:
            ValueError: `entries` is not the dict of a figure.
        """
        try:
            series = [Series(**one) for one in entries["series"]]
            return cls(**{**entries, "x": Axis(**entries["x"]), "y": Axis(**entries["y"]), "series": series})
        except (TypeError, KeyError) as error:
            raise ValueError(f"not the description of a figure: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Lists, numbers and strings that JSON can hold; nan and infinities become None."""
        found: dict[str, Any] = _plain(asdict(self))
        return found

    @property
    def choices(self) -> list[str]:
        """In the order in which they first come; empty if there is nothing to choose."""
        return list(dict.fromkeys(s.choice for s in self.series if s.choice is not None))

    @property
    def labels(self) -> list[str]:
        """The different labels, in the order in which they first come; each has one colour."""
        return list(dict.fromkeys(s.label for s in self.series))

    def of_choice(self, choice: str | None) -> list[Series]:
        """The series to show for a choice: its own, and those of no choice."""
        return [s for s in self.series if s.choice in (choice, None)]

    def circles(self, series: Series) -> bool:
        """Whether `series` only points out, in a scatter plot, what an earlier one shows."""
        if self.kind != "scatter" or len(series.x) != 1:
            return False
        shown = self.of_choice(series.choice)
        earlier = shown[: next(i for i, other in enumerate(shown) if other is series)]
        return any(place == (series.x[0], series.y[0]) for e in earlier for place in zip(e.x, e.y, strict=True))

    def floor(self, name: str) -> float | None:
        """Where zeros of the logarithmic axis "x" or "y" are drawn: below the smallest positive value.

        None if the axis is not logarithmic or has no zeros.
        """
        if not getattr(self, name).log:
            return None
        values = [v for s in self.series for v in getattr(s, name) if _is_number(v)]
        positive = [v for v in values if v > 0]
        if len(positive) == len(values) or not positive:
            return None
        return float(10 ** (math.floor(math.log10(min(positive))) - 0.3))

    def values(self, series: Series, name: str) -> list[Any]:
        """What to draw of a series' "x", "y", "low" or "high": gaps are nan, zeros of a logarithmic axis its floor."""
        floor = self.floor("x" if name == "x" else "y")
        return [
            v if isinstance(v, str) else math.nan if not _is_number(v) else v if floor is None else max(v, floor)
            for v in getattr(series, name)
        ]


Style = Callable[[str], tuple[str, str]]


def styles(labels: Sequence[str]) -> Style:
    """Colour and dash of each label, the same in every panel."""

    def style(label: str) -> tuple[str, str]:
        i = labels.index(label)
        return COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]

    return style


def columns_of(series: list[Series]) -> list[str]:
    """The different x, in the order in which they first come."""
    return list(dict.fromkeys(str(x) for s in series for x in s.x))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _plain(value: Any) -> Any:
    """`value` in lists, dicts, strings and finite numbers."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return [_plain(entry) for entry in value]
