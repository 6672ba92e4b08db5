"""Weight averaging over the masters: what is evaluated is the average, quantized."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from .quantization import Quantization
from .step import StepCallback


class _Averaged(StepCallback):
    """Averages of all parameters by name, saved with the run, in the parameters' places in validation.

    Attributes:
        averages: name -> average; empty before there is one.
        rounded: whether those of quantized weights are rounded to nearest to be validated.
    """

    rounded = True

    def __init__(self) -> None:
        super().__init__(every=1)
        self.averages: dict[str, Tensor] = {}
        self._swapped = ExitStack()

    def on_validation_start(self, trainer: pl.Trainer, task: Any) -> None:
        if self.averages:
            weights = Quantization.of(trainer).weights
            self._swapped.enter_context(weights.averaged(self.averages, rounded=self.rounded))

    def on_validation_end(self, trainer: pl.Trainer, task: Any) -> None:
        self._swapped.close()

    def on_exception(self, trainer: pl.Trainer, task: Any, exception: BaseException) -> None:
        self._swapped.close()

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.averages = dict(state["averages"])


class EpochAveraging(_Averaged):
    """The plain mean of all weights as they are after each epoch, from a share of the run on (SWA, SWALP).

    Of quantized weights the quantized values are averaged, in float32, and validated as they are, unrounded.

    Args:
        start: the share of the run's steps after which epochs count; those before are validated without averaging.

    Raises:
        ValueError: no share.
    """

    rounded = False

    def __init__(self, start: float = 0.6667) -> None:
        super().__init__()
        if isinstance(start, bool) or not isinstance(start, (int, float)) or not 0 <= start <= 1:
            raise ValueError(f"averaging.start={start!r}: give a share of the run, from 0 to 1")
        self.start, self.count = start, 0

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        super().on_train_start(trainer, task)
        own = dict(task.model.named_parameters())
        self.averages = {name: saved.detach().clone().to(own[name].device) for name, saved in self.averages.items()}

    @torch.no_grad()
    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        if not trainer.is_last_batch or self._step < self.start * task.total_steps:
            return
        current = {name: p.detach().float() for name, p in task.model.named_parameters()}
        self.count += 1
        if not self.averages:
            self.averages = {name: w.clone() for name, w in current.items()}
            return
        torch._foreach_lerp_(list(self.averages.values()), [current[n] for n in self.averages], 1 / self.count)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.count = state["count"]


class Averaging(_Averaged):
    """An exponential moving average of all weights, used in every validation, while training goes on without it.

    Quantized weights are averaged as masters, since the average of values on a grid is not on it, and the average is
    rounded to nearest; all other parameters are averaged as they are. The averages are saved with the run.

    Args:
        decay: what stays of the average at each optimizer step, from 0 up to but not including 1.

    Raises:
        ValueError: another decay.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"averaging.decay={decay}: give a share from 0 up to but not including 1")
        self.decay = decay

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        super().on_train_start(trainer, task)
        weights = _weights(trainer, task)
        saved = self.averages or weights
        self.averages = {name: saved[name].detach().clone().to(w.device) for name, w in weights.items()}

    @torch.no_grad()
    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        current = _weights(trainer, task)
        torch._foreach_lerp_(list(self.averages.values()), [current[n] for n in self.averages], 1 - self.decay)


def _weights(trainer: pl.Trainer, task: Any) -> dict[str, Tensor]:
    """Every parameter by name, masters in place of quantized weights."""
    return {**dict(task.model.named_parameters()), **Quantization.of(trainer).weights.masters}
