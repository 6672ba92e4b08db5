"""The settings of `conf/trainer`: how long, on what, how often. Checked before anything else is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..errors import UserError

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}  # our names -> the Trainer's
MEANING = "32 (everything in float32) or bf16 (products in bfloat16, everything else in float32)"


@dataclass(frozen=True)
class Training:
    """How a run is trained.

    Args:
        epochs: passes over the training data.
        max_steps: optimizer steps; when given it takes the place of `epochs`.
        batch_size: training examples a batch and process; `accumulate_grad_batches` of them make one optimizer step.
        eval_batch_size: validation examples a batch.
        accumulate_grad_batches: batches whose mean gradient makes one optimizer step; fewer if an epoch ends.
        gradient_clip_val: largest norm of the whole gradient, after G is rounded; null does not clip.
        accelerator: auto (a CUDA GPU if there is one), cpu or cuda.
        devices: processes, one a device.
        strategy: auto, or ddp for several devices.
        precision: 32, or bf16: products in bfloat16 (`lpt/execution/bf16.py`). The key `precision` of a run.
        deterministic: refuse operations on a GPU that are not reproducible (on the CPU all are).
        log_every: optimizer steps a logging window.
        checkpoint_every: optimizer steps between checkpoints inside an epoch; 0 saves after each epoch only.
        overfit_batches: train on the first so many batches, over and over; null: on all. These three are set by debug=.
        limit_val_batches: validate on the first so many batches; null: on all.
        sync_batchnorm: batch normalization over the batches of all devices (`lpt.models.synchronized`).
        profiler: whether Lightning's profiler tells in fit-profile.txt where the time went.

    Raises:
        UserError: a value that is not possible.
    """

    epochs: int = 20
    max_steps: int | None = None
    batch_size: int = 32
    eval_batch_size: int = 256
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    precision: str | int = "32"
    deterministic: bool = False
    log_every: int = 20
    checkpoint_every: int = 200
    overfit_batches: int | None = None
    limit_val_batches: int | None = None
    profiler: bool = False
    sync_batchnorm: bool = False

    def __post_init__(self) -> None:
        least = {"checkpoint_every": 0}
        for field in fields(self):
            value = getattr(self, field.name)
            if str(field.type) == "int" or (str(field.type) == "int | None" and value is not None):
                low = least.get(field.name, 1)
                if isinstance(value, bool) or not isinstance(value, int) or value < low:
                    raise UserError(f"trainer.{field.name}={value!r}: give a whole number from {low} upward")
        if self.gradient_clip_val is not None and not _positive(self.gradient_clip_val):
            raise UserError(f"trainer.gradient_clip_val={self.gradient_clip_val!r}: give a positive norm, or null")
        if not isinstance(self.sync_batchnorm, bool):
            raise UserError(f"trainer.sync_batchnorm={self.sync_batchnorm!r}: give true or false")
        _choice("accelerator", self.accelerator, ("auto", "cpu", "cuda"))
        _choice("strategy", self.strategy, ("auto", "ddp"))
        if str(self.precision) not in PRECISIONS:
            raise UserError(f"precision={self.precision!r}: give {MEANING}; masters and gradients need float32")

    def batches(self, per_epoch: int) -> tuple[int, int]:
        """Epochs (the last one perhaps cut short) and optimizer steps of the whole run.

        Args:
            per_epoch: batches that each process sees in an epoch.

        Raises:
            UserError: the training data does not fill one batch.
        """
        if per_epoch == 0:
            raise UserError(
                f"the training data does not fill one batch of {self.batch_size} on each of {self.devices} device(s): "
                "lower trainer.batch_size"
            )
        steps = math.ceil(per_epoch / self.accumulate_grad_batches)
        if self.max_steps is None:
            return self.epochs, self.epochs * steps
        return math.ceil(self.max_steps / steps), self.max_steps

    def trainer(self, folder: Path, callbacks: list[Any], loggers: list[Any], epochs: int) -> Any:
        """The Lightning Trainer: it counts epochs; everything that is written is written by our callbacks."""
        import pytorch_lightning as pl
        import torch

        accelerator = self.accelerator
        if accelerator == "auto":
            accelerator = "cuda" if torch.cuda.is_available() else "cpu"
        if accelerator == "cuda" and torch.cuda.device_count() < self.devices:
            raise UserError(
                f"trainer.devices={self.devices} with {torch.cuda.device_count()} CUDA device(s) here: lower it, or "
                "trainer.accelerator=cpu"
            )
        profiler = pl.profilers.SimpleProfiler(dirpath=folder, filename="profile") if self.profiler else None
        return pl.Trainer(
            profiler=profiler, limit_val_batches=self.limit_val_batches,
            default_root_dir=folder, callbacks=callbacks, logger=loggers, max_epochs=epochs,
            accelerator=accelerator, devices=self.devices, strategy=self._strategy(),
            precision=PRECISIONS[str(self.precision)],  # type: ignore[arg-type]
            accumulate_grad_batches=self.accumulate_grad_batches, gradient_clip_val=self.gradient_clip_val,
            deterministic=self.deterministic and accelerator == "cuda", use_distributed_sampler=False,
            num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
        )  # fmt: skip

    def _strategy(self) -> str:
        return "ddp" if self.devices > 1 else self.strategy


def _choice(key: str, got: str, valid: tuple[str, ...]) -> None:
    if got not in valid:
        raise UserError(f"trainer.{key}={got!r} is not one of {', '.join(valid)}")


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
