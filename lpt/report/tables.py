"""Tables of runs: mean and standard deviation over seeds, and differences with an interval, paired over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scipy import stats

from .languages import ABSENT, MARK
from .runs import LESS_IS_BETTER, PERCENT, Result, check_alike, check_comparable, differing
from .sections import Table


@dataclass(frozen=True)
class Spread:
    """Values over seeds as a cell: "71.20 ± 0.31", or the one value there is; `form` is how a number is written."""

    values: tuple[float, ...]
    form: str = ".2f"

    @property
    def parts(self) -> dict[str, Any]:
        """What a CSV has of it, each in a column of its own."""
        return dict(zip(("mean", "SD"), mean_sd(self.values), strict=True))

    def __str__(self) -> str:
        mean, sd = mean_sd(self.values)
        return ABSENT if mean is None else format(mean, self.form) + (f" ± {sd:{self.form}}" if sd is not None else "")


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over the seeds that both have, and its 95 % interval (Student's t).

    None below two seeds, and where all differences are the same number: that says nothing of how they spread.
    `to` names b where a table does not.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    to: str = ""
    form: str = ".2f"
    less: bool = False  # whether less is better

    @property
    def verdict(self) -> str:
        """ "better" or "worse" where the interval excludes zero, else "open"."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "open"
        return "better" if (self.mean < 0) == self.less else "worse"

    @property
    def parts(self) -> dict[str, Any]:
        """What a CSV has of it, each in a column of its own."""
        named = {"to": self.to} if self.to else {}
        return {"mean": self.mean, "low": self.low, "high": self.high, "pairs": self.count, **named}

    def __str__(self) -> str:
        def signed(value: float) -> str:
            return format(value, f"+{self.form}")

        to = f" to {self.to}" if self.to else ""
        if self.low is None or self.high is None:
            return signed(self.mean) + to
        return f"{signed(self.mean)} [{signed(self.low)}, {signed(self.high)}]{to}"


@dataclass
class Row:
    """Runs of one configuration, by seed.

    Raises:
        ValueError: they differ in more than their seeds.
    """

    labels: dict[str, str]
    metric: str
    results: list[Result] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_alike(self.results)

    @property
    def values(self) -> dict[int, float]:
        """By seed; runs without a result are left out."""
        found = {r.seed: r.value(self.metric) for r in self.results}
        return {seed: value for seed, value in found.items() if value is not None}

    @property
    def mixed(self) -> dict[str, list[str]]:
        """Versions of code, libraries or machine that are not the same for all its runs."""
        return differing(self.results)


def mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation of the sample (n - 1); None where there are too few values."""
    if not values:
        return None, None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def difference(a: Mapping[int, float], b: Mapping[int, float], confidence: float = 0.95) -> Difference | None:
    """a - b, paired by seed; None if no seed is in both."""
    each = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    mean, sd = mean_sd(each)
    if mean is None:
        return None
    if not sd:
        return Difference(mean, None, None, len(each))
    low, high = stats.t.interval(confidence, len(each) - 1, loc=mean, scale=sd / math.sqrt(len(each)))
    return Difference(mean, float(low), float(high), len(each))


def table(
    title: str,
    rows: Sequence[Row],
    baseline: str | None = None,
    compare: Sequence[Sequence[str]] = (),
    published: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[Table, list[str]]:
    """The table, and notes on it: what lacks, and whose runs are of different versions.

    Args:
        rows: with labels model, arm, and further conditions.
        baseline: the arm to which each is compared.
        compare: (arm, other arm): the first is compared to the second, too.
        published: model -> arm -> what the paper has.

    Raises:
        ValueError: arms that are to be compared have not the same data, model or length.
    """
    conditions = [key for key in (rows[0].labels if rows else {}) if key != "arm"]
    extra = ["seeds", "mean ± SD"]
    extra += [f"difference to {baseline} [95 %]"] if baseline else []
    extra += ["difference to the other [95 %]"] if compare else []
    columns = [*conditions, "format and weights", "metric", *extra, "published"]
    other = {first: second for first, second in compare}  # noqa: C416
    cells, notes = [], []
    for row in rows:
        peers = {r.labels["arm"]: r for r in rows if all(r.labels[k] == row.labels[k] for k in conditions)}
        check_comparable([peer.results[0] for peer in peers.values() if peer.results])
        arm = row.labels["arm"]
        unit = " (%)" if row.metric in PERCENT else ""
        cell: list[Any] = [*(row.labels[k] for k in conditions), arm + (MARK if row.mixed else ""), row.metric + unit]
        cell += [seeds(row), Spread(tuple(row.values.values())) if row.values else None]
        if baseline:
            cell.append("" if arm == baseline else _against(row, peers.get(baseline)))
        if compare:
            cell.append(_against(row, peers.get(other[arm]), other[arm]) if arm in other else "")
        cells.append([*cell, (published or {}).get(row.labels.get("model", ""), {}).get(arm, ABSENT)])
        for key, values in row.mixed.items():
            notes.append(f"{MARK} {', '.join(row.labels.values())}: runs of different {key}: {'; '.join(values)}")
        for state in dict.fromkeys(result.status for result in row.results if result.status != "finished"):
            count = f"{sum(result.status == state for result in row.results)} of {len(row.results)}"
            notes.append(f"{', '.join(row.labels.values())}: {count} runs {state}, without a value")
    return Table(title, columns, cells), notes


def seeds(row: Row) -> int | str:
    """How many of its runs have a value, out of how many if not all."""
    count, whole = len(row.values), len(row.results)
    return count if count == whole else f"{count} of {whole}"


def _against(row: Row, other: Row | None, named: str = "") -> Difference | None:
    found = difference(row.values, other.values) if other else None
    return replace(found, to=named, less=row.metric in LESS_IS_BETTER) if found else None


def finding(tables: Sequence[Table]) -> str:
    """What the differences of `tables` say, counted: in how many rows an interval excludes zero, and on which side."""
    found = []
    for table in tables:
        found += [table.finding] if table.finding else []
        for i, column in enumerate(table.columns):
            verdicts = [cell.verdict for row in table.rows if isinstance(cell := row[i], Difference)]
            if verdicts and column.startswith("difference"):
                counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("better", "worse", "open"))
                found.append(f"{column.removesuffix(' [95 %]')}: {counts}")
    return "; ".join(dict.fromkeys(found))
