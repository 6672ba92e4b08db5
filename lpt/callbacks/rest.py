"""Where weights rest: how far from their masters, and what the run gives once all are rounded to nearest."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from ..indicators import bits_lost, rest_distance, rounding_noise, statistics_anew
from .oscillation import evaluated, unaugmented
from .quantization import Quantization
from .step import StepCallback, log


class Rest(StepCallback):
    """At the end of each window of `every` steps, of all quantized weights:

        rest/distance     |w - Q| in steps of the grid, mean
        rest/bits_lost    log2(sqrt(12) rms) of it: 0 for rounding to nearest between even levels, 1 for hysteresis
        rest/noise        |w - Q| / |w|, over all weights at once

    and at the end of the run `val/<metric>_nearest`, of the same masters rounded to nearest, with batch-norm statistics
    that are means over training batches (those of the run are of other levels): to be compared with
    `val/<metric>_anew` of `NormalizationAnew`.

    Args:
        every: optimizer steps a window.
        batches: of training data, for the statistics; not augmented.
    """

    def __init__(self, every: int, batches: int = 50) -> None:
        super().__init__(every)
        if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
            raise ValueError(f"indicators.rest.batches={batches!r}: give a whole number from 1 upward")
        self.batches = batches

    def on_window(self, trainer: pl.Trainer, task: Any) -> None:
        weights = Quantization.of(trainer).weights
        if not weights.names:
            return
        masters = {name: weights.by_channel(name, w) for name, w in weights.masters.items()}
        levels = {name: weights.by_channel(name, p.detach()) for name, p in weights.params.items()}
        each = [rest_distance(masters[n], levels[n], weights.scheme.format, weights.scales[n]) for n in weights.names]
        metrics = {
            "rest/distance": sum(d.sum().item() for d in each) / sum(d.numel() for d in each),
            "rest/bits_lost": bits_lost(each).item(),
            "rest/noise": rounding_noise(list(masters.values()), list(levels.values())).item(),
        }
        log(trainer, metrics)

    def on_validation_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        quantization = Quantization.of(trainer)
        weights = quantization.weights
        if trainer.global_step < task.total_steps or not weights.names:
            return
        masters = {name: w.to(weights.params[name].dtype) for name, w in weights.masters.items()}
        with (
            torch.random.fork_rng(devices=[]),
            quantization.probe(),
            weights.averaged(masters),
            statistics_anew(task.model, unaugmented(task, self.batches), task.loss),
        ):
            found = evaluated(task)
        log(trainer, {f"val/{name}_nearest": value for name, value in found.items()})
