"""The folder of a run: its name, who may write in it, and its `summary.json`.

    outputs/<run>/config.yaml  metrics.csv  summary.json  checkpoints/{last,best}.ckpt  wandb/

The name is readable first (model, data, format, weights, seed), then a hash of everything that decides the result, so
two configurations never share a folder and one configuration always finds its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from ..errors import UserError
from .named import spelt_out

# What may differ between two commands that mean the same run.
NOT_THE_RUN = ("resume", "logger", "progress", "paths")
NOT_THE_DATA = ("download", "cache")
ANOTHER = (
    "  seed=N        (or any other setting) makes a run of its own, in a folder of its own\n"
    "  variant=WORD  makes a run of the same settings beside this one\n"
    "To start it afresh, delete the folder."
)
LONGEST = 255  # bytes of a name, on all usual file systems; a run's name is ASCII


def replace(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader, or a run killed here, sees the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def run_name(config: dict[str, Any], head: list[str]) -> str:
    """`head` and the `variant` joined by dashes, and eight digits of a hash of `config` less `NOT_THE_RUN`.

    A head that is too long for a file's name is cut.
    """
    decides = {key: value for key, value in spelt_out(config).items() if key not in NOT_THE_RUN}
    if decides.get("variant") is None:
        decides.pop("variant", None)
    else:
        head = [*head, str(config["variant"])]
    decides["data"] = {key: value for key, value in config["data"].items() if key not in NOT_THE_DATA}
    text = json.dumps(decides, sort_keys=True, default=str)
    readable = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", part).strip("_") for part in head)
    mark = f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return readable[: LONGEST - len(mark)] + mark


class RunFolder:
    """`outputs/<run>`, held by one process at a time.

    `open` decides whether the run may start, continue, or is done already; nothing exists on disk before it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def last(self) -> Path | None:
        """The checkpoint to continue from, if the run came that far."""
        path = self.checkpoints / "last.ckpt"
        return path if path.is_file() else None

    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; empty before the run exists.

        Raises:
            UserError: it is damaged.
        """
        try:
            summary = json.loads((self.path / "summary.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError:
            summary = None
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}): give another paths.outputs") from error
        if not isinstance(summary, dict):
            raise UserError(f"{self.path / 'summary.json'} is damaged: delete the folder, and the run starts afresh")
        return summary

    def write_summary(self, **entries: Any) -> dict[str, Any]:
        """Add or replace flat keys of `summary.json`; floats that JSON cannot hold (nan, inf) become null."""
        summary = json.loads(json.dumps({**self.summary(), **entries}), parse_constant=lambda _: None)
        replace(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary

    def open(self, resume: bool) -> str:
        """Take the folder; returns "new", "continue" or "finished".

        Raises:
            UserError: it holds a run that is not finished and `resume` is off, or another process is at work in it.
        """
        status = self.summary().get("status")
        if status and status != "finished" and not resume:
            state = "not finished; at work, or killed" if status == "running" else status
            raise UserError(
                f"{self.path} already holds this very run ({state}); nothing was overwritten.\n"
                f"  resume=true   continues it\n{ANOTHER}"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self.checkpoints.mkdir(exist_ok=True)
        return "finished" if status == "finished" else ("continue" if status else "new")

    def _take_lock(self) -> None:
        # The system lets go of the lock however the process ends, SIGKILL included.
        self._lock = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            self._lock = None
            raise UserError(
                f"another process is at work in {self.path}: wait for it, stop it, or change a setting (seed=1)"
            ) from None

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
