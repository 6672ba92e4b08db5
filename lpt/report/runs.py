"""Folders of runs, read back: their results, and whether they may stand in one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .stored import json_of, rows_of, text_of, yaml_of

# What may differ between runs of a row: the seed, what starts from it, and what decides nothing.
FREE = ("seed", "init_from", "resume", "logger", "progress", "paths", "checks")
NOT_THE_DATA = ("data.download", "data.cache")
PERCENT = ("val/accuracy", "val/accuracy_top5", "val/map50", "train/accuracy")
LESS_IS_BETTER = ("val/perplexity", "val/loss", "train/loss", "flip_frequency")
# A task's own metric is the first of these that it has.
METRICS = ("val/accuracy", "val/perplexity", "val/bleu", "val/map50", "val/loss")
NAMES = {
    "val/accuracy": "validation accuracy (%)", "val/map50": "mean average precision at IoU 0.5 (%)",
    "val/perplexity": "validation perplexity", "val/bleu": "BLEU", "val/loss": "validation loss",
    "train/loss": "training loss", "flip_frequency": "flip frequency (share of weights a step)",
}  # fmt: skip


def named(metric: str) -> str:
    """A metric with its unit and direction."""
    best = metric.startswith("best/")
    metric = metric.removeprefix("best/")
    less = ", lower is better" if metric in LESS_IS_BETTER and metric != "flip_frequency" else ""
    return ("best " if best else "") + NAMES.get(metric, metric) + less


@dataclass(frozen=True)
class Result:
    """A run's folder, the flat keys of its summary.json, and its config.yaml."""

    folder: Path
    summary: dict[str, Any]
    config: dict[str, Any]

    @property
    def status(self) -> str:
        return str(self.summary.get("status", "missing"))

    @property
    def seed(self) -> int:
        seed = self.summary.get("seed")
        return seed if isinstance(seed, int) else -1

    def value(self, metric: str) -> float | None:
        """A figure of summary.json, in percent where it is a share; None if the run has none or did not finish."""
        value = self.summary.get(metric)
        if self.status != "finished" or not isinstance(value, (int, float)):
            return None
        return float(value) * (100 if metric.removeprefix("best/") in PERCENT else 1)

    @property
    def metric(self) -> str | None:
        """The task's own metric; None if the run has no figures yet."""
        return next((name for name in METRICS if isinstance(self.summary.get(name), (int, float))), None)

    def curve(self, column: str) -> tuple[list[int], list[float]]:
        """As `curves`, for one column."""
        return self.curves(column)[column]

    def curves(self, *columns: str) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of columns of metrics.csv, in percent where they are shares.

        Raises:
            UserError: the file ends before the run did.
        """
        file = self.folder / "metrics.csv"
        try:
            rows = list(rows_of(text_of(file))) if file.is_file() else []
        except ValueError as error:
            raise _damaged(file) from error
        if self.status == "finished" and (not rows or rows[-1].get("step") != str(self.summary.get("steps", ""))):
            raise _damaged(file)
        found = {}
        for column in columns:
            kept = [row for row in rows if row.get(column)]
            factor = 100 if column in PERCENT else 1
            try:
                found[column] = [int(row["step"]) for row in kept], [factor * float(row[column]) for row in kept]
            except (ValueError, TypeError, KeyError) as error:
                raise _damaged(file) from error
        return found

    def columns(self, prefix: str) -> list[str]:
        """The columns of metrics.csv that begin with `prefix`."""
        file = self.folder / "metrics.csv"
        head = text_of(file).partition("\n")[0] if file.is_file() else ""
        return [name for name in head.split(",") if name.startswith(prefix)]


def read(folder: Path) -> Result:
    """The run in `folder`; one that has not begun, or whose summary.json is damaged, is "missing".

    Raises:
        UserError: it has a result, and its config.yaml is damaged.
    """
    try:
        summary = json_of(text_of(folder / "summary.json"))
    except (OSError, ValueError):
        summary = None
    try:
        config = yaml_of(text_of(folder / "config.yaml"))
    except (OSError, ValueError):
        config = None
    result = Result(folder, *(entries if isinstance(entries, dict) else {} for entries in (summary, config)))
    if result.status in ("finished", "diverged") and not result.config:
        raise _damaged(folder / "config.yaml")
    return result


def _damaged(file: Path) -> UserError:
    return UserError(f"{file} is missing or damaged: delete the folder, and give the command that made it again")


def flat(node: Any, at: str = "") -> dict[str, Any]:
    """{"a.b": 1} of {"a": {"b": 1}}."""
    if not isinstance(node, dict):
        return {at: node}
    return {k: v for key, value in node.items() for k, v in flat(value, f"{at}.{key}" if at else str(key)).items()}


def check_alike(results: Sequence[Result]) -> None:
    """Raise unless the runs differ in nothing but their seeds.

    Raises:
        UserError: they do; the message names what differs, and two of the folders.
    """
    configs = [
        flat({key: value for key, value in r.config.items() if key not in FREE}) for r in results if r.config
    ]  # fmt: skip
    for result, config in zip([r for r in results if r.config], configs, strict=True):
        if odd := sorted(k for k in config.keys() | configs[0].keys() if config.get(k) != configs[0].get(k)):
            values = ", ".join(f"{k} is {configs[0].get(k)!r} and {config.get(k)!r}" for k in odd[:3])
            raise UserError(f"{results[0].folder} and {result.folder} cannot stand in one row: {values}")
    _check_data(results, "cannot stand in one row")


def check_comparable(results: Sequence[Result], but: str = "") -> None:
    """Raise unless the runs saw the same data, with the same model, for as long.

    Args:
        but: a setting (`model`, `trainer.epochs`) that may differ all the same, since it is what is compared.

    Raises:
        UserError: they did not.
    """
    keys = ("data", "model", "trainer.epochs", "trainer.max_steps", "trainer.batch_size", "task")

    def of(result: Result) -> dict[str, Any]:
        every = flat(result.config)
        kept = {k: v for k, v in every.items() if k in keys or k.split(".")[0] in keys}
        return {k: v for k, v in kept.items() if but not in (k, k.split(".")[0]) and k not in NOT_THE_DATA}

    known = [r for r in results if r.config]
    for result in known:
        first, own = of(known[0]), of(result)
        if odd := sorted(k for k in first.keys() | own.keys() if first.get(k) != own.get(k)):
            values = ", ".join(f"{k} is {first.get(k)!r} and {own.get(k)!r}" for k in odd[:3])
            raise UserError(f"{known[0].folder} and {result.folder} cannot be compared: {values}")
    _check_data(results, "cannot be compared")


def _check_data(results: Sequence[Result], what: str) -> None:
    """Raise if the same folder or name held other data for some of the runs."""
    known = [r for r in results if r.summary.get("data_hash")]
    for result in known:
        if result.summary["data_hash"] != known[0].summary["data_hash"]:
            raise UserError(
                f"{known[0].folder} and {result.folder} {what}: their data were not the same (data_hash in "
                "summary.json); delete the runs on the old data, or give another outputs="
            )


def differing(
    results: Sequence[Result], keys: Sequence[str] = ("git_commit", "versions", "hardware")
) -> dict[str, list[str]]:
    """Of the keys of summary.json that tell where a result comes from, those that differ, with all their values."""
    values = {key: sorted({str(r.summary.get(key)) for r in results if r.summary}) for key in keys}
    return {key: found for key, found in values.items() if len(found) > 1}
