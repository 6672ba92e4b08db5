"""The objects of one run, made in the order of their dependence, and checked before anything is written."""

from __future__ import annotations

import logging
import os
import sys
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..callbacks.checkpoints import Checkpoints
from ..callbacks.checks import Checks
from ..callbacks.guarded import Guarded
from ..callbacks.loggers import MetricsCSV
from ..callbacks.metrics import Diverged, Metrics
from ..callbacks.progress import Progress
from ..callbacks.signals import Stopped, handlers, on_stop
from ..callbacks.testing import Testing
from ..callbacks.trackers import picture
from ..errors import UserError
from ..models.synchronized import synchronize_
from ..places import place
from ..report.curves import of_run as draw_curves
from . import code, covered, saved, summary, tracking
from .build import build, flag, told, whole
from .folder import RunFolder, replace, run_name
from .limits import check_threads
from .messages import missing
from .named import names
from .parts import make_quantization, make_task, try_optimizer
from .recovery import Recovery, wandb_id
from .training import Training


class Experiment:
    """A run: `Experiment(cfg, choices)` makes and checks everything, `fit()` trains.

    Args:
        cfg: the composed configuration.
        choices: the file that was chosen in each group.

    Raises:
        UserError: anything in `cfg` that cannot work.
    """

    def __init__(self, cfg: DictConfig, choices: dict[str, str]) -> None:
        quiet()
        check_threads()
        # (A data set tells itself what it lacks, and how it must look.)
        whole_config: Any = OmegaConf.to_container(cfg)
        if absent := missing({key: value for key, value in whole_config.items() if key != "data"}):
            raise UserError(f"{absent[0]} must be given: add {absent[0]}=... to the command")
        self.cfg = cfg
        self.resume, progress = flag("resume", cfg.resume), flag("progress", cfg.progress)
        self.config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
        self.seed = whole("seed", cfg.seed)
        self.training: Training = build("trainer", cfg.trainer)
        self.task = make_task(cfg, self.training)
        if cfg.init_from is not None:
            saved.load(self.task.model, cfg.init_from)
        if self.training.sync_batchnorm:
            synchronize_(self.task.model)
        self.task.only = self.training.overfit_batches
        self.quantization = make_quantization(cfg)
        with told("format or products"):  # what else is wrong is told by its maker
            self.quantization.check(self.task.model)
        self.epochs, self.task.total_steps = self.training.batches(self.task.batches_per_epoch(self.training.devices))
        with told("optimizer or scheduler"):
            self.task.configure_optimizers()
        self.names = names(cfg, choices)
        self.others = {group: str(choices.get(group) or "none") for group in ("products", "recipe", "optimizer")}
        head = [*self.names.values(), f"seed{self.seed}"]
        self.own_code = code.own_code(self.config)
        self.folder = RunFolder(place(cfg.paths.outputs, "paths.outputs") / run_name(self.config, head))
        self.trainer = self.training.trainer(self.folder.path, self.callbacks(progress), self.loggers(), self.epochs)
        try_optimizer(self.task, self.trainer.strategy.root_device, self.training.gradient_clip_val)
        self.leads = self.trainer.is_global_zero
        self.start: Path | None = None
        self.mended: list[str] = []
        if not self.leads:
            self.folder = _Follower(self.folder.path)

    def callbacks(self, progress: bool) -> list[Any]:
        """Quantization first, then what measures, then what shows; Lightning calls checkpoints last."""
        every = self.training.log_every
        nodes = self.cfg.indicators or {}
        indicators = [build(f"indicators.{name}", node) for name, node in nodes.items() if node is not None]
        averaging = [build("averaging", self.cfg.averaging)] if self.cfg.averaging._target_ else []
        shown = [Progress(every)] if progress else []
        checks = Checks(self.cfg.get("checks", "first"), indicators)
        entry = {"run": self.folder.path.name, "config": OmegaConf.to_yaml(self.cfg)}
        checkpoints = Checkpoints(
            self.folder.checkpoints, self.training.checkpoint_every, self.seed, entry, lambda: self.folder.check()
        )
        return [self.quantization, *averaging, *indicators, Metrics(every), Testing(), *shown, checks, checkpoints]

    def loggers(self) -> list[Any]:
        run_id = wandb_id(self.folder) or uuid.uuid4().hex[:12]
        self.wandb_id = run_id
        about = tracking.about(self.cfg, self.names, self.others)
        made = tracking.trackers(self.cfg, folder=self.folder.path, config=self.config, run_id=run_id, about=about)
        self.csv = MetricsCSV(self.folder.metrics)
        return [self.csv, *made]

    def fit(self) -> None:
        """Train to the end, from the checkpoint that `recover` found; summary.json tells how it went."""
        checkpoints = Checkpoints.of(self.trainer)
        on_stop(checkpoints.stopping)
        checkpoints.around = handlers()
        try:
            self._announce()
            tracking.tell_settings(self.trainer.loggers, self.config)
            self.trainer.fit(self.task, ckpt_path=self.start, weights_only=True)
        except BaseException as error:
            with suppress(OSError):  # which must not take the place of the first error
                self._close({Stopped: "stopped", Diverged: "diverged"}.get(type(error), "failed"))
            if self.start and not checkpoints.began and isinstance(error, (ValueError, LookupError, RuntimeError)):
                raise UserError(f"{self.start} is whole, but this version cannot continue it ({error})") from error
            raise
        self._close("finished")

    def recover(self, state: str) -> bool:
        """Look through the folder of a run in this state; returns whether the run is finished.

        Raises:
            UserError: it has checkpoints, and none can be continued.
        """
        recovery = Recovery(self.folder, self.task, self.cfg, self.leads)
        finished = recovery.look(state)
        if state == "finished" and not finished and not self.resume:
            raise UserError(f"{self.folder.path}: {recovery.said[0]}; resume=true goes on with it")
        self.start, self.mended = recovery.start, recovery.said
        Checkpoints.of(self.trainer).forget_best = recovery.best_lost
        return finished

    def _announce(self) -> None:
        if not self.leads:
            return
        replace(self.folder.path / "config.yaml", OmegaConf.to_yaml(self.cfg))
        self.folder.write_summary(
            train_examples=len(self.task.data.train), val_examples=len(self.task.data.val),
            unit=getattr(self.task.data, "unit", "examples"),
            parameters=sum(p.numel() for p in self.task.model.parameters()),
            status="running", **self.names, seed=self.seed, wandb_id=self.wandb_id, git_commit=summary.git_commit(),
            data_hash=self.task.fingerprint(), versions=summary.versions(), hardware=summary.hardware(),
            own_code=self.own_code,
            **({"mended": "; ".join(self.mended)} if self.mended else {}),
        )  # fmt: skip
        data, model = self.task.data, self.task.model
        size = sum(p.numel() for p in model.parameters())
        unit = getattr(data, "unit", "examples")
        print(f"{data.name}: {data.source}; {len(data.train)} + {len(data.val)} {unit}", file=sys.stderr)
        print(f"{self.names['model']}: {size:,} parameters; {self.task.total_steps} steps", file=sys.stderr)
        found = covered.of_run(self.task, self.quantization)
        self.folder.write_summary(coverage=round(found.share, 6), coverage_missing="; ".join(found.missing))
        print(found, file=sys.stderr)
        print(f"{self.folder.path}/", file=sys.stderr, flush=True)

    def _close(self, status: str) -> None:
        if not self.leads:
            return
        self.folder.check()
        figures = summary.figures(self.folder.metrics, self.task.total_steps)
        metrics = Metrics.of(self.trainer)
        written = self.folder.write_summary(
            status=status, **figures, **self.task.notes(), steps=self.trainer.global_step,
            epochs=self.trainer.current_epoch, wall_seconds=round(metrics.seconds, 1), metrics_mark=self.csv.mark,
        )  # fmt: skip
        if status == "finished":  # nothing will be continued from it
            (self.folder.checkpoints / "previous.ckpt").unlink(missing_ok=True)
        for logger in self.trainer.loggers[1:]:
            with suppress(Exception):  # a run does not fail by what else it is logged to
                logger.finalize("success" if status == "finished" else "failed")
        self._draw()
        files = self.folder.checkpoints if self.cfg.logger.get("checkpoints") is True and status == "finished" else None
        for logger in self.trainer.loggers:
            if isinstance(logger, Guarded):
                logger.close(written, 0 if status == "finished" else 1, files)

    def _draw(self) -> None:
        """curves.png, for people; a run does not fail by it."""
        try:
            path = draw_curves(self.folder.path, self.folder.path.name)
        except Exception as error:
            print(f"curves.png could not be drawn: {error}", file=sys.stderr)
        else:
            if path is not None:
                picture(self.trainer, "curves", path)


class _Follower(RunFolder):
    """The folder as ranks other than the first see it: theirs to read, the first rank's to hold."""

    def open(self, resume: bool) -> str:
        return "continue"


def quiet() -> None:
    """Lightning's hints and tips off; its warnings stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("WANDB_SILENT", "true")
    # Lightning 2.6 asks for a class that torch 2.13 and later call deprecated.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
