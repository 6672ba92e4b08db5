"""Works that take turns, so that a busy machine slows all alike; ratios are taken within a turn, then their median."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

Row = dict[str, float | str]
Rows = dict[str, Row]
Clock = Callable[[], float]


@dataclass
class Work:
    """Something to be timed, or a sum of what others took.

    Args:
        run: does it once; None for a sum.
        base: the work it is compared with; the first if not given.
        target: the ratio that it should not exceed.
        bound: the ratio that its bytes alone would give, read and written at the base's speed.
        parts: for a sum, the other works and how much of each.
    """

    run: Callable[[], object] | None = None
    base: str = ""
    target: float | None = None
    bound: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)


def measured(works: dict[str, Work], rounds: int, clock: Clock = time.perf_counter) -> Rows:
    """For each work: ratio, its quartiles (low, high), the ratio of least times (least), ms, n, seconds of the first
    call (first_s), base, target, bound.

    `clock`: time.process_time counts what this process computed alone, for one thread on a machine that others use.
    The first call (which may compile) and the second are not among the `rounds`.
    """
    first = {name: timed(work.run, clock) for name, work in works.items() if work.run}
    for work in works.values():
        if work.run:
            work.run()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            if work.run:
                times[name].append(timed(work.run, clock))
    for name, work in works.items():
        if work.run is None:
            times[name] = [sum(times[part][i] * share for part, share in work.parts.items()) for i in range(rounds)]
    rows: Rows = {}
    for name, work in works.items():
        base = work.base or next(iter(works))
        low, middle, high = quartiles([t / b for t, b in zip(times[name], times[base], strict=True)])
        rows[name] = {"ratio": middle, "low": low, "high": high, "ms": 1e3 * quartiles(times[name])[1], "n": rounds}
        rows[name] |= {"base": base, "least": min(times[name]) / min(times[base])}
        optional = {"first_s": first.get(name), "target": work.target, "bound": work.bound}
        rows[name] |= {key: value for key, value in optional.items() if value is not None}
    return rows


def timed(run: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Seconds that `run` takes, on a GPU until it has finished."""
    start = clock()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - start


def quartiles(values: list[float]) -> tuple[float, float, float]:
    ordered = sorted(values)
    low, middle, high = (ordered[round(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))
    return low, middle, high


def table(title: str, rows: Rows) -> str:
    """The rows as text; a target that was missed says so."""
    width = max(36, *(len(name) for name in rows)) + 1
    head = f"{'ratio':>8s}{'quartiles':>19s}{'of least':>10s}{'target':>9s}{'bytes':>7s}{'ms':>10s}{'first, s':>10s}"
    head += "  compared with"
    lines = [f"\n{title}", " " * width + head]
    for name, row in rows.items():
        spread = f"{row['low']:.2f} to {row['high']:.2f}"
        line = f"{name:{width}s}{row['ratio']:8.2f}{spread:>19s}{row['least']:10.2f}"
        missed = "target" in row and float(row["ratio"]) > float(row["target"])
        line += f"{row['target']:>8}{'!' if missed else ' '}" if "target" in row else " " * 9
        line += f"{row['bound']:7.2f}" if "bound" in row else " " * 7
        line += f"{row['ms']:10.2f}" + (f"{row['first_s']:10.2f}" if "first_s" in row else " " * 10)
        lines.append(f"{line}  {row['base']}" if row["base"] != name else line)
    return "\n".join(lines)
