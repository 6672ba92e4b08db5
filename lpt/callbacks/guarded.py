"""Weights & Biases at arm's length: whatever happens to it, the run goes on, and metrics.csv has every number."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import DummyExperiment, rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from ..errors import UserError

begin: Any = WandbLogger.experiment.fget  # type: ignore[attr-defined]  # a property's function: makes the W&B run
SECONDS = 30.0  # to wait for W&B's server when a run starts; then the run is logged offline


def check(**settings: Any) -> None:
    """Raise if W&B would refuse these settings, or what the environment says beside them.

    Raises:
        UserError: it would; nothing has been started or written.
    """
    import wandb

    tags = settings["run_tags"]
    if not isinstance(tags, (list, tuple)) or not all(isinstance(tag, str) for tag in tags):
        raise UserError(f"logger.tags={tags!r}: give a list of words, such as logger.tags=[one,two]")
    try:
        made = wandb.Settings(**{key: value for key, value in settings.items() if value is not None})
        if hasattr(made, "update_from_env_vars"):
            made = wandb.Settings()
            made.update_from_env_vars(dict(os.environ))
    except (ValueError, TypeError, wandb.errors.Error) as error:
        told = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()] if hasattr(error, "errors") else []
        what = f"{told[0][0]}: {told[0][1]}" if told else str(error).splitlines()[0]
        theirs = sorted(name for name in os.environ if name.startswith("WANDB_") and "KEY" not in name)
        there = f"; in the environment are {', '.join(theirs)}" if theirs else ""
        raise UserError(
            f"logger: W&B refuses {what}. Mend logger.project, group, tags or entity, or its variables{there}; "
            "logger.mode=disabled does without W&B"
        ) from error


class Guarded(WandbLogger):
    """Lightning's logger of W&B, whose failures are told once and end nothing.

    If W&B's server cannot be reached, the run is logged offline; if its service ends, or cannot be started, no more is
    logged there.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._wandb_init.pop("anonymous", None)  # Lightning passes it; W&B warns that it means nothing any more
        self._lost = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._lost:
            return DummyExperiment()
        if self._experiment is None:
            with _cache(Path(self._wandb_init["dir"])):
                self._start()
        return DummyExperiment() if self._lost else self._experiment

    def _start(self) -> None:
        import wandb

        online = self._wandb_init.get("mode") == "online"
        if online:
            self._wandb_init["settings"] = wandb.Settings(init_timeout=SECONDS)
        try:
            begin(self)
        except Exception as error:
            if not online:
                return self._lose(error)
            self._wandb_init["mode"] = "offline"
            _tell(f"W&B's server does not answer ({_short(error)}): logged offline, for `wandb sync` to send later")
            try:
                begin(self)
            except Exception as second:
                self._lose(second)
        return None

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self._guarded(lambda: WandbLogger.log_hyperparams(self, params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._guarded(lambda: WandbLogger.log_metrics(self, metrics, step))

    @rank_zero_only
    def log_objects(self, objects: Mapping[str, Any]) -> None:
        """Tables, images, histograms: what is no number."""
        self._guarded(lambda: self.experiment.log(dict(objects)))

    @rank_zero_only
    def close(self, results: Mapping[str, Any], code: int = 0, checkpoints: Path | None = None) -> None:
        """Write the run's results and, if given, the folder of checkpoints as an artifact, and end it."""
        if self._experiment is not None:
            if checkpoints is not None:
                self._guarded(lambda: self._keep(checkpoints))
            known = {key: value for key, value in results.items() if value is not None}
            self._guarded(lambda: self.experiment.summary.update(known))
            self._guarded(lambda: self.experiment.finish(exit_code=code))
        self._experiment = None

    def _keep(self, checkpoints: Path) -> None:
        import wandb

        metadata = {"run": checkpoints.parent.name}
        files = wandb.Artifact(f"{self.experiment.id}-checkpoints", type="model", metadata=metadata)
        files.add_dir(str(checkpoints))
        self.experiment.log_artifact(files, aliases=["finished"])

    def _guarded(self, work: Any) -> None:
        if self._lost:
            return
        try:
            work()
        except Exception as error:  # whatever it is, it is W&B's
            self._lose(error)

    def _lose(self, error: Exception) -> None:
        import wandb

        self._lost, self._experiment = True, None
        _tell(f"W&B is lost ({_short(error)}): the run goes on without it; metrics.csv has every number")
        with suppress(Exception):  # it ends with what is wrong
            wandb.teardown()
        wandb.run = None  # or the next run of a sweep would be taken for a part of this one


@contextmanager
def _cache(folder: Path) -> Iterator[None]:
    """Within, W&B's service has a place for its cache and log: without HOME it writes its log to the terminal."""
    if os.name != "posix" or os.environ.get("HOME") or os.environ.get("XDG_CACHE_HOME"):
        yield
        return
    _tell(f"HOME is not set: W&B keeps its cache in {folder}/wandb/cache")
    os.environ["XDG_CACHE_HOME"] = str((folder / "wandb" / "cache").resolve())
    try:
        yield
    finally:
        del os.environ["XDG_CACHE_HOME"]


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _tell(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
