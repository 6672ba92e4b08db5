"""Tables of runs: mean and standard deviation over seeds, and differences with an interval, paired over seeds."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy import stats

from .runs import PERCENT, Result, check_alike, check_comparable, differing
from .sections import Table

ABSENT = "not available"
MARK = "†"


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over the seeds that both have, and its 95 % interval (Student's t).

    None below two seeds, and where all differences are the same number: that says nothing of how they spread.
    """

    mean: float
    low: float | None
    high: float | None
    count: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:+.2f}"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


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
    both = sorted(a.keys() & b.keys())
    mean, sd = mean_sd([a[seed] - b[seed] for seed in both])
    if mean is None:
        return None
    if not sd:
        return Difference(mean, None, None, len(both))
    half = float(stats.t.ppf((1 + confidence) / 2, len(both) - 1)) * sd / math.sqrt(len(both))
    return Difference(mean, mean - half, mean + half, len(both))


def spread(values: Sequence[float]) -> str | None:
    """ "71.20 ± 0.31", or the one value there is."""
    mean, sd = mean_sd(values)
    if mean is None:
        return None
    return f"{mean:.2f}" if sd is None else f"{mean:.2f} ± {sd:.2f}"


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
        cell += [_seeds(row), spread(list(row.values.values()))]
        if baseline:
            cell.append("" if arm == baseline else _against(row, peers.get(baseline)))
        if compare:
            found = _against(row, peers.get(other[arm])) if arm in other else ""
            cell.append(f"{found} to {other[arm]}" if found else found)
        cells.append([*cell, (published or {}).get(row.labels.get("model", ""), {}).get(arm, ABSENT)])
        for key, values in row.mixed.items():
            notes.append(f"{MARK} {', '.join(row.labels.values())}: runs of different {key}: {'; '.join(values)}")
        for state in dict.fromkeys(result.status for result in row.results if result.status != "finished"):
            count = f"{sum(result.status == state for result in row.results)} of {len(row.results)}"
            notes.append(f"{', '.join(row.labels.values())}: {count} runs {state}, without a value")
    return Table(title, columns, cells), notes


def _seeds(row: Row) -> str:
    count, whole = len(row.values), len(row.results)
    return str(count) if count == whole else f"{count} of {whole}"


def _against(row: Row, other: Row | None) -> str | None:
    found = difference(row.values, other.values) if other else None
    return None if found is None else str(found)


# -- the same in other languages -----------------------------------------------------------------------------------


def text(value: Any) -> str:
    """A cell; None is "not available"."""
    if value is None:
        return ABSENT
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(table: Table) -> str:
    rows = [table.columns, *([text(v).replace("|", "\\|") for v in row] for row in table.rows)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(table.columns), *lines[1:]]) + "\n"


def to_csv(table: Table) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([table.columns, *([text(v) for v in row] for row in table.rows)])
    return out.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", MARK: r"$\dagger$",
}  # fmt: skip


def latex(table: Table) -> str:
    """A tabular, for `\\input`."""

    def line(row: Sequence[Any]) -> str:
        return " & ".join("".join(_LATEX.get(c, c) for c in text(v)) for v in row) + r" \\"

    body = [line(row) for row in table.rows]
    head = [rf"\begin{{tabular}}{{{'l' * len(table.columns)}}}", r"\hline", line(table.columns), r"\hline"]
    return "\n".join([f"% {table.title}", *head, *body, r"\hline", r"\end{tabular}"]) + "\n"
