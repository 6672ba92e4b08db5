"""The objects of one run, made in the order of their dependence, and checked before anything is written."""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
import uuid
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from ..callbacks.checkpoints import Checkpoints, seed_everything
from ..callbacks.checks import Checks
from ..callbacks.guarded import Guarded
from ..callbacks.loggers import MetricsCSV
from ..callbacks.metrics import Diverged, Metrics
from ..callbacks.progress import Progress
from ..callbacks.quantization import Quantization
from ..callbacks.signals import Stopped, handlers, on_stop
from ..callbacks.testing import Testing
from ..callbacks.trackers import picture
from ..data.base import ImageData
from ..errors import UserError
from ..models.synchronized import synchronize_
from ..places import place
from ..report.curves import of_run as draw_curves
from ..tasks.task import Task
from ..weights.closures import why_not
from . import code, covered, saved, summary, tracking
from .build import build, flag, maker, numbers, told, whole
from .folder import RunFolder, replace, run_name
from .limits import check_memory, check_threads, refused
from .messages import missing
from .named import names
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
        with told("format, products, weights or remedy"):
            self.quantization.check(self.task.model)
        self.epochs, self.task.total_steps = self.training.batches(self.task.batches_per_epoch(self.training.devices))
        for group in ("optimizer", "scheduler"):
            numbers(group, cfg[group])
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


def make_task(cfg: DictConfig, training: Training) -> Task:
    """Data, model, and the task that joins them; seeded, so that equal configurations begin with equal weights."""
    data = build("data", cfg.data)
    seed_everything(cfg.seed)
    model = make_model(cfg, data)
    task: Task = build(
        "task", cfg.task, model=model, data=data, optimizer=maker("optimizer", cfg.optimizer),
        scheduler=maker("scheduler", cfg.scheduler), batch_size=training.batch_size,
        eval_batch_size=training.eval_batch_size, seed=cfg.seed,
    )  # fmt: skip
    return task


def make_model(cfg: DictConfig, data: Any) -> Any:
    """The network, told by the data set what it must know of it, with an `example` of images if it asks for one."""
    arguments = data.model_arguments()
    try:
        signature = inspect.signature(maker("model", cfg.model))
        if isinstance(data, ImageData) and "example" in signature.parameters:  # two: batch-norm needs them in training
            arguments["example"] = torch.rand(2, *data.shape, generator=torch.Generator().manual_seed(0))
        signature.bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"this model does not go with data={data.name}, which tells it {', '.join(arguments)} ({error}): "
            "choose another model= or data="
        ) from error
    except ValueError:
        pass  # a key of the user's own is wrong, as build will say
    if not cfg.model.get("pretrained"):
        check_memory(lambda: maker("model", cfg.model)(**arguments))
    model = build("model", cfg.model, **arguments)
    parametrize_(model, cfg)
    if isinstance(data, ImageData):
        _try(model, data, cfg.model.get("name") or type(model).__name__)
    return model


def parametrize_(model: Any, cfg: DictConfig) -> None:
    """What `parametrization=` makes of a new model."""
    if (node := cfg.get("parametrization")) is not None:  # (older runs have none)
        parametrization = build("parametrization", node)
        with told("parametrization"):
            parametrization.attach_(model)


def _try(model: Any, data: ImageData, name: str) -> None:
    """One blank image through the network.

    Raises:
        UserError: the network is not made for images of this size.
    """
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(torch.zeros(1, *data.shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        if refused(error):
            raise
        why = re.sub(r" ?\(Proxy\(\w+\)\)", "", str(error)).rstrip(".")  # what a traced model says of its input
        channels, height, width = data.shape
        raise UserError(
            f"{name} cannot take images of {height}x{width} pixels and {channels} channels, as data={data.name} gives "
            f"them ({why}): give images of another size (data.size=, where the data set has it), or another model="
        ) from error
    model.train()


def try_optimizer(task: Task, device: torch.device, clip: float | None) -> None:
    """One step of the task's optimizer on stand-ins for the parameters, where and as the run will step.

    Raises:
        UserError: it needs another device or other gradients, or runs its closure at a time of its own.
    """
    thin = {id(m.weight) for m in task.model.modules() if getattr(m, "sparse", False) and hasattr(m, "weight")}
    parameters = list(task.model.parameters())
    sparse = [id(p) in thin for p in parameters]
    if why := why_not(task.make_optimizer, parameters, sparse, device, clip):
        raise UserError(f"optimizer: {why}")


def make_quantization(cfg: DictConfig) -> Quantization:
    """`format=`, `products=`, `weights=` and `remedy=`."""
    flow = cfg.format.copy()
    with open_dict(flow):
        flow.pop("value", None)  # it only fills in activation, error and gradient
    products = cfg.get("products", OmegaConf.create({"_target_": "lpt.Products"})).copy()  # older runs have none
    with open_dict(products):
        products.pop("value", None)
    if cfg.compile not in (False, True, "auto", "rounding"):
        raise UserError(f"compile={cfg.compile!r}: give auto, rounding, true or false")
    if cfg.memory not in ("plain", "packed"):
        raise UserError(f"memory={cfg.memory!r}: give plain or packed")
    if cfg.memory == "packed" and cfg.compile is True:
        raise UserError("memory=packed works module by module: take it with compile=rounding, auto or false")
    execution = {"compile": cfg.compile, "packed": cfg.memory == "packed", "bf16": cfg.precision == "bf16"}
    execution["products"] = build("products", products)
    remedy = cfg.get("remedy")  # (older runs have none)
    weights = maker("weights", cfg.weights)
    if remedy is not None and remedy._target_:
        weights = partial(weights, remedy=build("remedy", remedy))
    return Quantization(build("format", flow), weights, **execution)


def quiet() -> None:
    """Lightning's hints and tips off; its warnings stay."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("WANDB_SILENT", "true")
    # Lightning 2.6 asks for a class that torch 2.13 and later call deprecated.
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
