"""Where numbers go: `metrics.csv` always, Weights & Biases beside it."""

from __future__ import annotations

import csv
import inspect
import io
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from ..errors import UserError
from ..report.stored import rows_of
from .rows import read_metrics

FIRST, LAST = ("step", "epoch"), ("seconds",)


class MetricsCSV(Logger):
    """`metrics.csv`: one row for each optimizer step at which something was logged.

    Every call is on disk when it returns, and a run that continues cuts off what was written after its checkpoint, so
    the file of a run that was killed ends up like that of one that was not. Columns are sorted, `seconds` is last.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._columns: list[str] = []
        self._row: dict[str, Any] = {}
        self._row_start = 0
        self._before = (0, 0)  # rows before this one, and a CRC over them

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The configuration is in config.yaml."""

    @rank_zero_only
    def cut(self, step: int) -> None:
        """Keep the rows up to `step` and forget the rest; 0 starts afresh."""
        rows = [row for row in sound_rows(self.path)[0] if int(row["step"]) <= step] if step else []
        self._columns = _ordered({key for row in rows for key, value in row.items() if value != ""})
        self._rewrite(rows)
        self._row = {}
        if rows and int(rows[-1]["step"]) == step:  # what is still to be logged at this step goes into its row
            self._row = {key: value for key, value in rows.pop().items() if value != ""} | {"step": step}
            self._row_start = len(self._text(rows, header=True).encode())
        self._before = _chained(rows)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        if self._row.get("step") != step:
            self._before = _chained([self._row] if self._row else [], *self._before)
            self._row = {"step": step}
            self._row_start = self.path.stat().st_size if self.path.exists() else 0
        self._row.update(metrics)
        if not self._row.keys() <= set(self._columns):
            rows = [row for row in read_metrics(self.path) if int(row["step"]) < step]
            self._columns = _ordered({*self._columns, *self._row})
            self._rewrite(rows)
            self._row_start = self.path.stat().st_size
        with self.path.open("r+", newline="", encoding="utf-8") as file:
            file.seek(self._row_start)
            file.truncate()
            file.write(self._text([self._row], header=False))

    @property
    def mark(self) -> str:
        """`mark_of` all rows so far."""
        return _marked(*_chained([self._row] if self._row else [], *self._before))

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(self._text(rows, header=bool(self._columns)), encoding="utf-8")
        os.replace(temporary, self.path)

    def _text(self, rows: list[dict[str, Any]], header: bool) -> str:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="", extrasaction="ignore", lineterminator="\n")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _ordered(columns: set[str]) -> list[str]:
    middle = sorted(columns - {*FIRST, *LAST})
    return [*(c for c in FIRST if c in columns), *middle, *(c for c in LAST if c in columns)]


def sound_rows(path: Path) -> tuple[list[dict[str, str]], bool]:
    """The rows that a run can have written, and whether others stand among them."""
    if not path.is_file():
        return [], False
    text = path.read_bytes().decode("utf-8", errors="replace")
    sound: list[dict[str, str]] = []
    rows: list[dict[str, str]] = []
    broken = False
    try:
        rows.extend(rows_of(text[: text.rfind("\n") + 1].replace("\0", "?")))
    except ValueError:
        broken = True  # from there on
    last = -1
    for row in rows:
        try:
            step = int(row["step"])
            _ = [float(value) for value in row.values() if value]
        except (KeyError, TypeError, ValueError):
            continue
        if None not in row.values() and step > last:
            last = step
            sound.append(row)
    return sound, broken or len(sound) != len(rows) or (not rows and bool(text))


def mark_of(rows: Iterable[Mapping[str, Any]]) -> str:
    """How many rows there are, and eight digits that change with what stands in them, their `seconds` left out."""
    return _marked(*_chained(rows))


def _marked(count: int, crc: int) -> str:
    return f"{count}:{crc:08x}"


def _chained(rows: Iterable[Mapping[str, Any]], count: int = 0, crc: int = 0) -> tuple[int, int]:
    for row in rows:
        known = sorted(key for key, value in row.items() if value not in ("", None) and key not in LAST)
        # The test part is measured after the last checkpoint.
        text = ";".join(f"{key}={row[key]}" for key in known if not key.startswith("test/"))
        count, crc = count + 1, zlib.crc32(text.encode(), crc)
    return count, crc


def wandb(
    folder: Path, config: dict[str, Any], run_id: str, *, mode: str, project: str, group: str | None,
    tags: str | list[str], entity: str | None = None, checkpoints: bool = False, about: dict[str, Any] | None = None,
) -> Logger | None:  # fmt: skip
    """Weights & Biases: `mode` offline (nothing leaves the machine, `wandb sync` sends it later), online or disabled.

    `run_id` makes a continued run go on under its own id. `about` says what the run is: `choice` (the names to filter
    by, in W&B's configuration), `group` and `job_type`. With `checkpoints` they become an artifact at the end
    (`lpt/runs/experiment.py`).

    Raises:
        UserError: another mode, a name or an environment that W&B refuses, or online without a key; then nothing has
            been written.
    """
    if mode not in ("offline", "online", "disabled"):
        raise UserError(f"logger.mode={mode!r} is not one of offline, online, disabled")
    tags, about = [tags] if isinstance(tags, str) else list(tags), about or {}
    config = {**config, "choice": about.get("choice", {})}
    group = group or about.get("group")
    if mode == "disabled":
        return None
    os.environ.setdefault("WANDB_SILENT", "true")
    if mode == "online":
        _check_key()
    from .guarded import Guarded, check

    check(project=project, run_id=run_id, run_group=group, run_tags=tags, entity=entity)
    return Guarded(
        project=project, name=folder.name, save_dir=folder, version=run_id, group=group, tags=tags,
        entity=entity, mode=mode, config=config, resume="allow", job_type=about.get("job_type"),
    )  # fmt: skip


def _check_key() -> None:
    """Look for W&B's key where W&B looks (environment, netrc, its settings), without the network and without asking.

    Raises:
        UserError: there is none, or it is no key.
    """
    import wandb as library

    try:
        if "prompt" in inspect.signature(library.login).parameters:
            known = library.login(prompt=False, verify=False)
        else:  # older versions
            known = bool(library.api.api_key)
    except (library.errors.Error, ValueError) as error:
        raise UserError(f"logger.mode=online: W&B's key is not right ({error}); run `wandb login`") from error
    if not known:
        raise UserError(
            "logger.mode=online needs a key of W&B, and there is none: run `wandb login`, set WANDB_API_KEY, or leave "
            "logger.mode=offline and send the run later with `wandb sync`"
        )
