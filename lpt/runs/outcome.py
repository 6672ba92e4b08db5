"""What a job of a sweep returns: the figure that it is judged by, and its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..report.runs import METRICS


class Score(float):
    """The task's own metric, of the best checkpoint where there is one: an objective for a sweeper that optimizes.

    Accuracy, BLEU and mAP are better if more, perplexity and loss if less; nan where a run has none.
    """

    folder: Path

    def __new__(cls, value: float, folder: Path) -> Score:
        made = super().__new__(cls, value)
        made.folder = folder
        return made

    def __reduce__(self) -> tuple[Any, ...]:  # it comes back from other processes
        return Score, (float(self), self.folder)


def score(result: Any) -> Score | int:
    """Of what a job's work gave: its score, or 0 if it was no training."""
    if not isinstance(result, Mapping) or "folder" not in result:
        return 0
    names = [name for metric in METRICS for name in (f"best/{metric}", metric)]
    value = next((result[name] for name in names if isinstance(result.get(name), (int, float))), math.nan)
    return Score(value, Path(result["folder"]))


class JobFailed(Exception):
    """A job ended with this exit code, and has said why; for sweepers that know of no exit codes."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
