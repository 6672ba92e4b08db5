"""Loss and further metrics, in training and in validation; and the end of a run whose loss is no longer a number."""

from __future__ import annotations

import math
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from .loggers import MetricsCSV
from .step import StepCallback, every_rank, log, own_rank


class Diverged(RuntimeError):
    """The loss or a weight is not finite."""


class Metrics(StepCallback):
    """Logs `train/<metric>` as the mean over each window of `every` steps, and `val/<metric>` over the whole
    validation set after each epoch; and the learning rate and the seconds spent so far.

    Sums stay on the device within a window. They are saved with the run, so that a window cut in two by a kill has
    the same mean as a whole one.

    Raises:
        Diverged: at the end of a window in which the loss was not finite.
    """

    def __init__(self, every: int) -> None:
        super().__init__(every)
        self.latest: dict[str, float] = {}
        self._sums: dict[str, Tensor] = {}
        self._batches = 0
        self._seconds = 0.0  # of earlier lives of this run
        self._began = time.monotonic()
        self._val: dict[str, Tensor] = {}

    @staticmethod
    def of(trainer: pl.Trainer) -> Metrics:
        """The one in `trainer`'s callbacks."""
        return next(c for c in trainer.callbacks if isinstance(c, Metrics))  # type: ignore[attr-defined]

    @property
    def seconds(self) -> float:
        """Wall time of the run, its earlier lives included up to their last checkpoint."""
        return self._seconds + time.monotonic() - self._began

    def setup(self, trainer: pl.Trainer, task: Any, stage: str) -> None:
        self._began = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        super().on_train_start(trainer, task)
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.cut(trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for name, value in outputs["means"].items():  # outputs["loss"] is divided by the accumulation
            self._sums[name] = self._sums.get(name, 0) + value.detach().double()
        self._batches += 1
        super().on_train_batch_end(trainer, task, outputs, batch, batch_idx)

    def on_window(self, trainer: pl.Trainer, task: Any) -> None:
        names = list(self._sums)
        means = trainer.strategy.reduce(torch.stack([self._sums[n] for n in names]), reduce_op="mean") / self._batches
        metrics = _named("train", task, dict(zip(names, means.tolist(), strict=True)))
        self._sums, self._batches = {}, 0
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self._log(trainer, metrics | {"lr": rate})
        if not math.isfinite(metrics["train/loss"]):
            raise Diverged(f"the loss is {metrics['train/loss']} after {trainer.global_step} steps")

    def on_validation_epoch_start(self, trainer: pl.Trainer, task: Any) -> None:
        self._val = {}

    def on_validation_batch_end(
        self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        size = outputs["size"]
        for name, value in outputs.items():
            total = torch.as_tensor(size, device=task.device) if name == "size" else value * size
            self._val[name] = self._val.get(name, 0) + total.double()

    def on_validation_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        names = [name for name in self._val if name != "size"]
        sums = torch.stack([self._val[name] for name in [*names, "size"]])
        *totals, size = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        metrics = _named("val", task, {name: total / size for name, total in zip(names, totals, strict=True)})
        self.latest = {name: value for name, value in self.latest.items() if not name.startswith("val/")}
        self._log(trainer, metrics | {f"val/{name}": value for name, value in task.collected().items()})

    def _log(self, trainer: pl.Trainer, metrics: dict[str, float]) -> None:
        self.latest |= metrics
        log(trainer, metrics | {"epoch": trainer.current_epoch, "seconds": round(self.seconds, 3)})

    def shown(self, task: Any) -> dict[str, float]:
        """Training figures of this process in the window under way, or of the last window if none is."""
        if not self._batches:
            return {name: value for name, value in self.latest.items() if name.startswith("train/")}
        return _named("train", task, {name: (value / self._batches).item() for name, value in self._sums.items()})

    def finite(self) -> bool:
        """Whether this process's losses in the present window are finite so far."""
        return "loss" not in self._sums or bool(self._sums["loss"].isfinite())

    def state_dict(self) -> dict[str, Any]:
        return {
            "sums": every_rank(self._sums),
            "batches": self._batches,
            "latest": dict(self.latest),
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums, self._batches = dict(own_rank(state["sums"])), state["batches"]
        self.latest, self._seconds = dict(state["latest"]), state["seconds"]


def _named(part: str, task: Any, means: dict[str, float]) -> dict[str, float]:
    """The means and what follows from them, as `part/name`."""
    return {f"{part}/{name}": value for name, value in {**means, **task.derived(means)}.items()}
