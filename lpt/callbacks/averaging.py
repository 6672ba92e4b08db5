"""Weight averaging over the masters: what is evaluated is the average, quantized."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from .quantization import Quantization
from .step import StepCallback


class Averaging(StepCallback):
    """An exponential moving average of all weights, used in every validation, while training goes on without it.

    Quantized weights are averaged as masters, since the average of values on a grid is not on it, and the average is
    rounded to nearest; all other parameters are averaged as they are. The averages are saved with the run.

    Args:
        decay: what stays of the average at each optimizer step, from 0 up to but not including 1.

    Raises:
        ValueError: another decay.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(every=1)
        if not 0 <= decay < 1:
            raise ValueError(f"averaging.decay={decay}: give a share from 0 up to but not including 1")
        self.decay = decay
        self.averages: dict[str, Tensor] = {}
        self._swapped = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        super().on_train_start(trainer, task)
        weights = _weights(trainer, task)
        saved = self.averages or weights
        self.averages = {name: saved[name].detach().clone().to(w.device) for name, w in weights.items()}

    @torch.no_grad()
    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        current = _weights(trainer, task)
        torch._foreach_lerp_(list(self.averages.values()), [current[n] for n in self.averages], 1 - self.decay)

    def on_validation_start(self, trainer: pl.Trainer, task: Any) -> None:
        if self.averages:
            self._swapped.enter_context(Quantization.of(trainer).weights.averaged(self.averages))

    def on_validation_end(self, trainer: pl.Trainer, task: Any) -> None:
        self._swapped.close()

    def on_exception(self, trainer: pl.Trainer, task: Any, exception: BaseException) -> None:
        self._swapped.close()

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.averages = dict(state["averages"])


def _weights(trainer: pl.Trainer, task: Any) -> dict[str, Tensor]:
    """Every parameter by name, masters in place of quantized weights."""
    return {**dict(task.model.named_parameters()), **Quantization.of(trainer).weights.masters}
