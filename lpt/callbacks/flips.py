"""How often quantized weights change: flip frequency, the quantity that the paper plots over training."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from .quantization import Quantization
from .step import StepCallback, log


class Flips(StepCallback):
    """Logs, for each window of `every` steps, the mean share of weights whose quantized value changed at a step.

    `flip_frequency` = `flip_frequency/level` + `flip_frequency/regrid` (the scale moved), for the network and, with
    `per_layer`, as `flip_frequency/layer/<name>`. Counting happens on the device; a window costs one transfer.
    """

    def __init__(self, every: int, per_layer: bool = True) -> None:
        super().__init__(every)
        self.per_layer = per_layer
        self.latest = float("nan")

    def on_window(self, trainer: pl.Trainer, task: Any) -> None:
        weights = Quantization.of(trainer).weights
        if not weights.names:
            return
        counts = weights.flips().tolist()  # per layer: level flips, regrid flips, weights times steps
        weights.reset_flips()
        level, regrid, total = (sum(column) for column in zip(*counts, strict=True))
        if not total:
            return
        self.latest = (level + regrid) / total
        metrics = {
            "flip_frequency": self.latest,
            "flip_frequency/level": level / total,
            "flip_frequency/regrid": regrid / total,
        }
        if self.per_layer:
            for name, (level, regrid, total) in zip(weights.names, counts, strict=True):
                if total:  # a frozen weight takes no step
                    metrics[f"flip_frequency/layer/{name}"] = (level + regrid) / total
        log(trainer, metrics)

    def state_dict(self) -> dict[str, Any]:
        return {"latest": self.latest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.latest = state["latest"]
