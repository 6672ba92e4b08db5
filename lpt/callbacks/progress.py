"""One bar for the whole run: loss, metrics and flip frequency."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytorch_lightning as pl

from .flips import Flips
from .metrics import Metrics
from .step import StepCallback


class Progress(StepCallback):
    """A line for each epoch; on a terminal a bar below them that moves with every step."""

    def __init__(self, every: int) -> None:
        super().__init__(every)
        self._bar: Any = None

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        super().on_train_start(trainer, task)
        if trainer.is_global_zero and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=task.total_steps, initial=trainer.global_step, unit="step", dynamic_ncols=True)

    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        if self._bar is not None:
            self._bar.update()

    def on_window(self, trainer: pl.Trainer, task: Any) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(self.text(trainer, task))

    def on_train_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        if not trainer.is_global_zero:
            return
        place = f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}/{task.total_steps}"
        line = f"{place}: {self.text(trainer, task)}"
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)  # the bar moves down; the line stays
            self._bar.set_postfix_str(self.text(trainer, task))
        else:
            print(line, file=sys.stderr, flush=True)

    def teardown(self, trainer: pl.Trainer, task: Any, stage: str) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @staticmethod
    def text(trainer: pl.Trainer, task: Any) -> str:
        """The latest values of what is worth watching."""
        values: dict[str, float] = {}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Metrics):
                values |= {name.removeprefix("train/"): value for name, value in callback.shown(task).items()}
                measured = [n for n in (task.monitor, "val/perplexity", "val/loss") if n in callback.latest]
                values |= {name: callback.latest[name] for name in measured[:1]}
            if isinstance(callback, Flips) and not math.isnan(callback.latest):
                values["flips"] = callback.latest
        return " ".join(f"{name}={value:.4g}" for name, value in values.items())
