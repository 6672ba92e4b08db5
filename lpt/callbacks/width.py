"""The width of hysteresis as a schedule: wide while the learning rate is high, say, and narrow at the end."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from ..errors import UserError
from ..weights.rules import Hysteresis
from .quantization import Quantization


class Width(pl.Callback):
    """The width goes from `first` to `last` in `stairs` equal parts of the run, each of one width.

    Stairs, because a compiled rounding is compiled anew for every width.

    Args:
        first, last: 0 (rounding to nearest) to 1 (the paper's hysteresis).
        stairs: two or more.

    Raises:
        UserError: a value outside its range.
    """

    def __init__(self, first: float = 1.0, last: float = 0.0, stairs: int = 5) -> None:
        if not (0 <= first <= 1 and 0 <= last <= 1) or stairs < 2:
            raise UserError(f"width: first={first} and last={last} must lie in 0 to 1, stairs={stairs} above 1")
        self.first, self.last, self.stairs = first, last, stairs

    def at(self, share: float) -> float:
        """The width when `share` (0 to 1) of the steps are done."""
        stair = min(int(share * self.stairs), self.stairs - 1)
        return self.first + (self.last - self.first) * stair / (self.stairs - 1)

    def on_fit_start(self, trainer: pl.Trainer, task: Any) -> None:
        scheme = Quantization.of(trainer).weights.scheme
        if not isinstance(scheme, Hysteresis):
            raise UserError(f"indicators.width belongs to hysteresis, not to weights.scheme={type(scheme).__name__}")

    def on_train_batch_start(self, trainer: pl.Trainer, task: Any, batch: Any, batch_idx: int) -> None:
        weights, width = Quantization.of(trainer).weights, self.at(trainer.global_step / task.total_steps)
        scheme: Any = weights.scheme
        if scheme.width != width:  # another object: a compiled update belongs to one
            weights.scheme = Hysteresis(scheme.format, width)
