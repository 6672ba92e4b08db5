"""Saving a run so that it can be killed at any moment, and continuing it as if it had not been.

Only between two optimizer steps is there a state that is small and whole: no half-accumulated gradient, the quantized
weights in the parameters. So a checkpoint is written after every `every`-th optimizer step inside an epoch, and at the
end of each epoch after its validation; never in between. A file is complete and sealed (`sealing`) before it gets its
name, and the one before is kept until the run is finished.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from .loggers import MetricsCSV
from .metrics import Diverged, Metrics
from .quantization import Quantization
from .sealing import SEALED, seal
from .signals import Stopped, Stopping, on_stop, restore
from .step import every_rank, own_rank


class Checkpoints(pl.callbacks.Checkpoint):
    """Writes `last.ckpt` and, by the task's `monitor`, `best.ckpt`; seeds and restores the global random states.

    While the run goes on, `previous.ckpt` is the one before `last.ckpt`.

    The place in the data is saved by Lightning, which asks the loader (`Batches`) for it.
    It is the last callback to run, so that what the others logged at a step is on disk before the step's checkpoint.

    Args:
        folder: of the checkpoints.
        every: optimizer steps between checkpoints inside an epoch; 0 saves at the ends of epochs only.
        entry: what a checkpoint says of its run, under `sealing.SEALED`.
        check: is called before each is written; raises an OSError if the folder is not ours any more.

    Raises:
        Diverged: instead of saving a weight or after a loss that is not finite: the last good checkpoint stays.
        Stopped: after a signal, once a checkpoint is written; at once at the second signal.
    """

    def __init__(
        self, folder: Path, every: int, seed: int, entry: dict[str, str] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        if every < 0:
            raise ValueError(f"trainer.checkpoint_every={every}: give optimizer steps, or 0 for epochs only")
        self.folder = Path(folder)
        self.every = every
        self.seed = seed
        self.entry, self.check = entry or {}, check
        self.stopping = Stopping()  # is told when the run is done
        self.around: dict[int, Any] = {}  # the handlers to put back, if not those of the fit's start (Lightning's)
        self.began = self.forget_best = False
        self.best: float | None = None
        self.best_step: int | None = None
        self._random: dict[str, Any] | None = None
        self._step = 0
        self._signalled = False
        self._handlers: dict[int, Any] = {}

    @staticmethod
    def of(trainer: pl.Trainer) -> Checkpoints:
        """The one in `trainer`'s callbacks."""
        return next(c for c in trainer.callbacks if isinstance(c, Checkpoints))  # type: ignore[attr-defined]

    # -- starting ------------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        self.began = True
        self._step = trainer.global_step
        if self._random is None:
            seed_everything(self.seed + trainer.global_rank)
        else:
            set_random_states(self._random)
        if trainer.global_step >= task.total_steps:
            trainer.should_stop = self.stopping.done = True  # killed between the last checkpoint and the end
        self._handlers = on_stop(self._on_signal)

    # -- saving --------------------------------------------------------------------------------------------------

    def on_train_batch_end(self, trainer: pl.Trainer, task: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._step >= task.total_steps:
            trainer.should_stop = True
            return  # validation comes next, then the end of the epoch
        if batch_idx + 1 == trainer.num_training_batches:
            return
        stop = self._stop_everywhere(trainer)
        if stop or (self.every and self._step % self.every == 0):
            self._save(trainer, task)
        if stop:
            raise Stopped

    def on_train_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        value = Metrics.of(trainer).latest.get(task.monitor)
        better = value is not None and (
            self.best is None or (value > self.best if task.more_is_better else value < self.best)
        )
        if better:
            self.best, self.best_step = value, trainer.global_step
        self._save(trainer, task, better)
        self.stopping.done = self._step >= task.total_steps
        if not self.stopping.done and self._stop_everywhere(trainer):
            raise Stopped

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        # The state is none to be saved: the last checkpoint is gone on from.
        if self._handlers and not self.stopping.done and self._stop_everywhere(trainer):
            raise Stopped

    def _save(self, trainer: pl.Trainer, task: Any, best: bool = False) -> None:
        if not trainer.strategy.reduce_boolean_decision(self._finite(trainer, task), all=True):
            raise Diverged(f"the loss or a weight is not finite after {trainer.global_step} steps")
        self.check()
        temporary, last = self.folder / "writing.tmp", self.folder / "last.ckpt"
        trainer.save_checkpoint(temporary, weights_only=False)
        if trainer.is_global_zero:
            seal(temporary)
            if best:
                shutil.copyfile(temporary, self.folder / "best.tmp")
                os.replace(self.folder / "best.tmp", self.folder / "best.ckpt")
            if last.is_file():
                os.replace(last, self.folder / "previous.ckpt")
            os.replace(temporary, last)

    def _finite(self, trainer: pl.Trainer, task: Any) -> bool:
        weights = [*task.model.parameters(), *Quantization.of(trainer).weights.masters.values()]
        largest = torch.stack([w.detach().abs().amax() for w in weights if w.numel()]).amax()
        return Metrics.of(trainer).finite() and bool(largest.isfinite())

    # -- signals -------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int, frame: Any) -> None:
        if self._signalled and not self.stopping.done:
            raise Stopped
        self._signalled = self.stopping.came = True

    def _stop_everywhere(self, trainer: pl.Trainer) -> bool:
        if trainer.world_size == 1:
            return self._signalled
        return trainer.strategy.reduce_boolean_decision(self._signalled, all=False)

    def teardown(self, trainer: pl.Trainer, task: Any, stage: str) -> None:
        restore(self.around if self._handlers and self.around else self._handlers)
        self._handlers = {}

    # -- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "random": every_rank(random_states())}

    def on_save_checkpoint(self, trainer: pl.Trainer, task: Any, checkpoint: dict[str, Any]) -> None:
        marks = [logger.mark for logger in trainer.loggers if isinstance(logger, MetricsCSV)]
        checkpoint[SEALED] = {**self.entry, "metrics": marks[0] if marks else ""}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not self.forget_best:  # its file is lost
            self.best, self.best_step = state["best"], state.get("best_step")
        self._random = own_rank(state["random"])


def seed_everything(seed: int) -> None:
    """Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_states() -> dict[str, Any]:
    """The global generators' states, as tensors and tuples only, so that `torch.load(weights_only=True)` reads them."""
    numpy: Any = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (numpy[0], torch.from_numpy(numpy[1].astype(np.int64)), *numpy[2:]),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """What `random_states` gave."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
