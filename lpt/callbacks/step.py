"""What every callback here needs: one call per optimizer step, one per logging window, and a place to log."""

from __future__ import annotations

import sys
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from .loggers import MetricsCSV


class StepCallback(pl.Callback):
    """Calls `on_step` after every optimizer step (not after every accumulated batch), and `on_window` after every
    `every`-th of them and after the last of the run.

    `on_step` gets the means of the step's last batch, its loss among them.

    Args:
        every: optimizer steps a logging window.
    """

    def __init__(self, every: int) -> None:
        if every < 1:
            raise ValueError(f"{type(self).__name__}: every={every} must be at least 1 (optimizer steps)")
        self.every = every
        self._step = 0

    def on_step(self, trainer: pl.Trainer, task: Any, means: dict[str, Tensor]) -> None: ...

    def on_window(self, trainer: pl.Trainer, task: Any) -> None: ...

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        self.on_step(trainer, task, outputs["means"])  # outputs["loss"] is divided by the accumulation
        if self._step % self.every == 0 or self._step == task.total_steps:
            self.on_window(trainer, task)


def log(trainer: pl.Trainer, metrics: dict[str, Any]) -> None:
    """Send `metrics` to every logger, at the present optimizer step, and to `trainer.callback_metrics`, where
    EarlyStopping and other callbacks look."""
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
    for logger in trainer.loggers:
        try:
            logger.log_metrics(metrics, step=trainer.global_step)
        except Exception as error:
            if isinstance(logger, MetricsCSV):
                raise
            print(f"warning: {type(logger).__name__} is lost ({error}): the run goes on without it", file=sys.stderr)
            trainer.loggers = [other for other in trainer.loggers if other is not logger]


def every_rank(value: Any) -> list[Any]:
    """`value` of each process, in the order of their ranks: what a checkpoint must hold if processes differ in it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def own_rank(values: list[Any]) -> Any:
    """This process's part of what `every_rank` gave."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return values[torch.distributed.get_rank() if distributed else 0]
