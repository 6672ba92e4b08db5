"""The test part, once: after the last step, with the weights that the run ends with."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from .averaging import Averaging
from .step import log


class Testing(pl.Callback):
    """Logs `test/<metric>` at the end of a run, if the data has a test part; nothing is chosen by it.

    Where validation is of averaged weights, so is this.
    """

    def on_train_end(self, trainer: pl.Trainer, task: Any) -> None:
        if getattr(task.data, "test", None) is None:
            return
        averaging = [c for c in trainer.callbacks if isinstance(c, Averaging)]  # type: ignore[attr-defined]
        for callback in averaging:
            callback.on_validation_start(trainer, task)
        try:
            with trainer.precision_plugin.val_step_context():
                figures = task.measured("test")
        finally:
            for callback in averaging:
                callback.on_validation_end(trainer, task)
        log(trainer, {**figures, "epoch": trainer.current_epoch})
