"""The folder of a run: its name, who may write in it, and its `summary.json`.

    outputs/<run>/config.yaml  metrics.csv  summary.json  checkpoints/{last,previous,best}.ckpt  wandb/

The name is readable first (model, data, format, weights, seed), then a hash of everything that decides the result, so
two configurations never share a folder and one configuration always finds its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..callbacks.sealing import no_file
from ..errors import UserError
from ..report.stored import json_of, text_of
from .files import replace
from .named import spelt_out

# What may differ between two commands that mean the same run.
NOT_THE_RUN = ("resume", "logger", "progress", "paths", "checks", "trust")
LATER = ("variant", "parametrization")  # keys that runs had not from the start: null stands for none
NOT_THE_DATA = ("download", "cache")
ANOTHER = (
    "  seed=N        (or any other setting) makes a run of its own, in a folder of its own\n"
    "  variant=WORD  makes a run of the same settings beside this one\n"
    "To start it afresh, delete the folder."
)
STATES = ("running", "stopped", "finished", "diverged", "failed")  # of a run, in its summary.json
# What a run writes, and reads again; nothing else may be in their place.
FILES = ("config.yaml", "config.yaml.tmp", "summary.json", "summary.json.tmp", "metrics.csv", "metrics.tmp", ".lock",
         "traces.npz", "traces.png", "curves.png", "checkpoints/writing.tmp", "checkpoints/best.tmp")  # fmt: skip
LONGEST = 255  # bytes of a name, on all usual file systems; a run's name is ASCII


def as_json(value: Any) -> Any:
    """`value` as JSON has it; floats that it cannot hold (nan, inf) become None."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def run_name(config: dict[str, Any], head: list[str]) -> str:
    """`head` and the `variant` joined by dashes, and eight digits of a hash of `config` less `NOT_THE_RUN`.

    A head that is too long for a file's name is cut.
    """
    decides = {key: value for key, value in spelt_out(config).items() if key not in NOT_THE_RUN}
    for key in LATER:
        if decides.get(key) is None:
            decides.pop(key, None)
    if "variant" in decides:
        head = [*head, str(config["variant"])]
    decides["data"] = {key: value for key, value in config["data"].items() if key not in NOT_THE_DATA}
    text = json.dumps(decides, sort_keys=True, default=str)
    readable = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", part).strip("_") for part in head)
    mark = f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return readable[: LONGEST - len(mark)] + mark


def stands_for(cfg: Any, name: str) -> bool:
    """Whether a configuration, as OmegaConf loads it, is the one that gave a run its name."""
    try:
        mark = run_name(OmegaConf.to_container(cfg, resolve=True), [])  # type: ignore[arg-type]
    except (OmegaConfBaseException, LookupError, TypeError, AttributeError):
        return False
    return name.endswith(mark)


class RunFolder:
    """`outputs/<run>`, held by one process at a time.

    `open` decides whether the run may start, continue, or is done already; nothing exists on disk before it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FileLock | None = None
        self._mine: tuple[int, int] | None = None  # which file on which device the lock is

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds; empty before the run exists.

        Raises:
            UserError: it is damaged.
        """
        try:
            summary = json_of(text_of(self.path / "summary.json"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError:
            summary = None
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({error.strerror}): give another paths.outputs") from error
        if not isinstance(summary, dict):
            raise UserError(
                f"{self.path / 'summary.json'} is damaged: resume=true mends it from the rest of the folder, or delete "
                "the folder, and the run starts afresh"
            )
        return summary

    def kept(self) -> dict[str, Any]:
        """As `summary`; empty if it is damaged."""
        try:
            return self.summary()
        except UserError:
            return {}

    def status(self) -> str:
        """The status in summary.json, "damaged" if it has none although the run has left something, or "" before.

        Raises:
            UserError: the folder cannot be read.
        """
        try:
            found = self.summary().get("status")
        except UserError:
            if not (self.path / "summary.json").is_file():
                raise
            return "damaged"
        left = self.metrics.exists() or any(self.checkpoints.glob("*.ckpt")) or (self.path / "summary.json").exists()
        return found if found in STATES else "damaged" if left else ""

    def write_summary(self, **entries: Any) -> dict[str, Any]:
        """Add or replace flat keys of `summary.json`; floats that JSON cannot hold (nan, inf) become null."""
        summary: dict[str, Any] = as_json({**self.summary(), **entries})
        replace(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary

    def open(self, resume: bool) -> str:
        """Take the folder; returns "new", "continue", "finished" or "damaged" (the summary.json of a run under way).

        Raises:
            UserError: it holds a run that is not finished and `resume` is off, or another process is at work in it.
        """
        self._refuse_others()
        status = self.status()
        if status and status != "finished" and not resume:
            told = {"running": "not finished; at work, or killed", "damaged": "its summary.json is damaged or gone"}
            state = told.get(status, status)
            raise UserError(
                f"{self.path} already holds this very run ({state}); nothing was overwritten.\n"
                f"  resume=true   continues it\n{ANOTHER}"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self.checkpoints.mkdir(exist_ok=True)
        return {"": "new", "finished": "finished", "damaged": "damaged"}.get(status, "continue")

    def _take_lock(self) -> None:
        # The system lets go of the lock however the process ends, SIGKILL included.
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"another process is at work in {self.path}: wait for it, stop it, or change a setting (seed=1)"
            ) from None
        except NotImplementedError as error:
            raise UserError(f"{self.path} is on a file system without locks: give another paths.outputs") from error
        self._lock, self._mine = lock, _which(self.path / ".lock")

    def check(self) -> None:
        """Raise an OSError if the folder is not the one that was opened: it was removed, and perhaps made anew."""
        if self._lock is not None and _which(self.path / ".lock") != self._mine:
            raise OSError(f"{self.path} was removed or replaced while this run was at work in it")

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _refuse_others(self) -> None:
        for name in FILES:
            own = self.path / name
            if own.is_symlink() and not own.resolve().is_relative_to(self.path.resolve()):
                raise UserError(f"{own} is a link to {own.resolve()}, which would be written: remove it")
            if self.path.is_dir() and (self.path / name).parent.is_dir() and (why := no_file(self.path / name)):
                raise UserError(f"{self.path / name}: {why}; move it away, and give the command again")
        if self.checkpoints.exists() and not self.checkpoints.is_dir():
            raise UserError(f"{self.checkpoints} is no folder: move it away, and give the command again")


def _which(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
