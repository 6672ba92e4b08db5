"""What a run that is continued finds in its folder, and whether it may be believed.

The folder's name is a hash of the configuration; a checkpoint has a checksum, and says which run wrote it and what
metrics.csv held then; the figures of summary.json follow from metrics.csv. So what was damaged, edited or exchanged is
told, and made again from what is whole. What is damaged is set aside, never deleted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..callbacks.loggers import mark_of, sound_rows
from ..callbacks.sealing import SEALED, Damaged, no_file, opened
from ..errors import UserError
from ..report.stored import check_yaml, text_of
from . import summary
from .folder import RunFolder, as_json, replace, stands_for

NAMES = ("last.ckpt", "previous.ckpt", "best.ckpt")  # each is the whole state of a run
PARTS = ("state_dict", "callbacks", "loops", "optimizer_states", "lr_schedulers", "global_step", "epoch")


def wandb_id(folder: RunFolder) -> str | None:
    """The id under which W&B knows a run: from its summary.json, or from what W&B left in its folder."""
    found = folder.kept().get("wandb_id")
    if isinstance(found, str) and found:
        return found
    try:
        left = sorted(folder.path.glob("wandb/*run-*-*"), key=lambda path: path.name)
    except OSError:  # a path that is none
        return None
    return left[-1].name.rpartition("-")[2] if left else None


class Recovery:
    """Looks a run's folder through before the run goes on; what is wrong with it is printed, and kept in `said`.

    Args:
        folder: of the run, held by this process (or, as a follower, by the first one, which does what is to be done).
        task: with the network that the checkpoints must fit.
        cfg: the configuration that the folder's name stands for.
        leads: whether this is the first of the run's processes.

    Attributes:
        start: the checkpoint to go on from.
        best_lost: best.ckpt is not what the checkpoint knows of, so that a new one must be found.
    """

    def __init__(self, folder: RunFolder, task: Any, cfg: DictConfig, leads: bool) -> None:
        self.folder, self.task, self.cfg, self.leads = folder, task, cfg, leads
        self.said: list[str] = []
        self.best_lost = False
        self.start: Path | None = None

    def look(self, state: str) -> bool:
        """Look at a run in this state (as `RunFolder.open` says it); returns whether it is finished.

        Raises:
            UserError: it has checkpoints, and none can be continued.
        """
        if state == "damaged":
            self.mend_summary()
        if state == "new" or (state == "finished" and self.finished()):
            return state != "new"
        self.start = self.checkpoint()
        return False

    def finished(self) -> bool:
        """Whether a run whose summary.json says so is finished; what is not as the run left it is told and mended."""
        held, steps = self.folder.summary(), self.task.total_steps
        if held.get("steps") != steps:
            self._say(f"summary.json says that {held.get('steps')} of {steps} steps are all: that is not believed")
            return False
        self._configuration()
        mark = held.get("metrics_mark")
        if mark is None:
            return True  # of an older version
        rows, odd = sound_rows(self.folder.metrics)
        if odd or mark != mark_of(rows):
            self._say("metrics.csv is not what the run left: what is missing is lost; summary.json stays as it was")
            return True
        figures = as_json(summary.figures(self.folder.metrics, steps))
        if changed := [name for name, value in figures.items() if held.get(name) != value]:
            self._say(f"summary.json was edited ({', '.join(changed[:3])}): its figures are those of metrics.csv again")
            self.folder.write_summary(**figures)
        return True

    def checkpoint(self) -> Path | None:
        """The checkpoint to go on from: last.ckpt, or the newest that is whole and this run's; None if there is none.

        Raises:
            UserError: there are some, and all are damaged or another run's.
        """
        folder = self.folder.checkpoints
        there = [n for n in NAMES if (folder / n).exists() or (folder / n).is_symlink()]
        whole: dict[Path, Mapping[str, Any]] = {}
        for path in (folder / name for name in there):
            if folder / NAMES[0] in whole:
                break
            try:
                whole[path] = self._state(path)
            except Damaged as damage:
                self._set_aside(path, str(damage))
        self._configuration()
        if whole:
            path = max(whole, key=lambda path: whole[path]["global_step"])
            if path.name != NAMES[0]:
                step = whole[path]["global_step"]
                self._say(f"{path.name}, of step {step}, takes the place of {NAMES[0]}", odd=NAMES[0] in there)
            self._best(whole[path], path)
            self._metrics(whole[path])
            return path
        if there or any(folder.glob("*.damaged*")):
            raise UserError(
                f"no checkpoint in {folder} is whole and of this run ({', '.join(there) or 'all are damaged'}): put "
                "one back, or delete the run's folder to start afresh"
            )
        if rows := sound_rows(self.folder.metrics)[0]:
            text = f"there is no checkpoint, though metrics.csv reaches step {rows[-1]['step']}: from the start"
            self._say(text, odd=False)
        return None

    def mend_summary(self) -> None:
        """Put a summary.json that cannot be read aside; the run writes a new one."""
        path = self.folder.path / "summary.json"
        try:
            what = f"has the status {self.folder.summary().get('status')!r}" if path.exists() else "was gone"
        except UserError:
            self._set_aside(path, "no JSON object is in it")
            what = "was damaged"
        self._say(f"summary.json {what}: what the run has done is taken from its checkpoints and metrics.csv")

    # -- the parts ---------------------------------------------------------------------------------------------------

    def _state(self, path: Path) -> Mapping[str, Any]:
        """What a checkpoint holds.

        Raises:
            Damaged: it is not whole, or not one of this run.
        """
        state, sealed = opened(path)
        if not isinstance(state, dict) or not all(part in state for part in PARTS):
            raise Damaged("it is no checkpoint of a run")
        if sealed and (run := state[SEALED].get("run")) != self.folder.path.name:
            raise Damaged(f"it is a checkpoint of another run, {run}")
        own, held = self.task.state_dict(), state["state_dict"]
        if own.keys() != held.keys() or any(own[name].shape != held[name].shape for name in own):
            raise Damaged("it is a checkpoint of another model")
        if not sealed:
            self._say(f"{path.name} has no checksum (an older version wrote it); its parts fit their CRCs")
        return state

    def _best(self, state: Mapping[str, Any], used: Path) -> None:
        """Set best.ckpt aside if it is not the one that the checkpoint which is continued knows of, or a later one."""
        path = self.folder.checkpoints / "best.ckpt"
        kept: Mapping[str, Any] = next(
            (held for key, held in state["callbacks"].items() if key.split("{")[0] == "Checkpoints"), {}
        )
        if path == used or kept.get("best") is None:
            return
        try:
            if not path.is_file():
                raise Damaged(no_file(path) or "it is gone")
            step, best = self._state(path)["global_step"], kept.get("best_step")
            if best is not None and step < best:
                raise Damaged(f"it is of step {step}, and the best was of step {best}")
        except Damaged as damage:
            self.best_lost = True
            self._set_aside(path, str(damage))
            self._say("best.ckpt will be the best from here on")

    def _metrics(self, state: Mapping[str, Any]) -> None:
        rows, odd = sound_rows(self.folder.metrics)
        before = [row for row in rows if int(row["step"]) <= state["global_step"]]
        mark = state.get(SEALED, {}).get("metrics")
        if odd or (mark and mark != mark_of(before)):
            what = "cut or edited" if self.folder.metrics.is_file() else "gone"
            self._say(f"metrics.csv was {what}: its rows up to step {state['global_step']} are not all what they were")

    def _configuration(self) -> None:
        """Write config.yaml again if it is not the configuration that gives the folder its name."""
        path = self.folder.path / "config.yaml"
        try:
            check_yaml(text_of(path))
            same = stands_for(OmegaConf.load(path), self.folder.path.name)
        except (OSError, ValueError, YAMLError, OmegaConfBaseException):
            same = False
        if not same:
            self._say(f"config.yaml was {'edited or damaged' if path.exists() else 'gone'}: it is written again")
            if self.leads:
                replace(path, OmegaConf.to_yaml(self.cfg))

    def _set_aside(self, path: Path, why: str) -> None:
        if not self.leads:
            return
        if not (path.exists() or path.is_symlink()):
            self._say(f"{path.name}: {why}")
            return
        number, aside = 1, path.with_suffix(".damaged")
        while aside.exists() or aside.is_symlink():
            number += 1
            aside = path.with_suffix(f".damaged{number}")
        path.rename(aside)
        self._say(f"{path.name} is not to be used ({why}); it is kept as {aside.name}")

    def _say(self, text: str, odd: bool = True) -> None:
        """Print it; what a kill at the wrong moment explains is not odd, and needs not be kept."""
        if odd:
            self.said.append(text)
        if self.leads:
            print(text, file=sys.stderr, flush=True)
