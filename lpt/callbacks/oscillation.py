"""Whether weights travel or oscillate, and what batch-norm statistics of now would give: measured during training."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from ..indicators import confidence, oscillating, rate_of_change, reversals, statistics_anew
from .quantization import Quantization
from .step import StepCallback, log

KEPT = ("moved", "jumped", "direction", "reversed")


class Oscillation(StepCallback):
    """Over the last `track` steps of each window of `every`, of all quantized weights:

        oscillation/reversals    share of weights a step that change opposite to their last change
        oscillation/share        share of weights with R >= 16, R the way of the quantized weight by that of its master
        change/master, change/quantized   |x_t - x_(t-1)| / |x_(t-1)|, mean over the steps
        change/output            the same of the network's output, of the last step, on `batch_size` training examples
        confidence               distance of masters to their thresholds, as a share of the largest; mean

    Args:
        every: optimizer steps a window.
        track: the last of them that are looked at: at least 2.
        batch_size: 0 leaves the output out; for tasks whose model takes the first part of a batch.
    """

    def __init__(self, every: int, track: int = 50, batch_size: int = 64) -> None:
        super().__init__(every)
        if not 2 <= track <= every:
            raise ValueError(f"indicators.oscillation.track={track}: give 2 to every={every} steps")
        self.track, self.batch_size = track, batch_size
        self._sums: dict[str, dict[str, Tensor]] = {}  # what -> weight -> value
        self._before: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None
        self._changes: list[tuple[float, float]] = []
        self._output: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        super().on_train_start(trainer, task)
        if self._sums:  # the run goes on in the middle of a window
            self._look(trainer)

    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        weights = Quantization.of(trainer).weights
        left = -self._step % self.every  # steps to the end of the window
        if left > self.track or not weights.names:
            return
        if left < self.track and self._before is not None:
            self._count(*self._before, *self._values(trainer))
        elif left == self.track or not self._sums:
            zeros = {n: torch.zeros_like(w) for n, w in weights.masters.items()}
            self._sums = {what: {n: z.clone() for n, z in zeros.items()} for what in KEPT}
            self._sums["direction"] = {n: z.to(torch.int8) for n, z in zeros.items()}
        self._look(trainer)
        if left == 1 and self.batch_size:
            self._output = self._run(trainer, task)

    def on_window(self, trainer: pl.Trainer, task: Any) -> None:
        weights = Quantization.of(trainer).weights
        if self._changes:
            width = getattr(weights.scheme, "width", 0.0)
            format, scales, view = weights.scheme.format, weights.scales, weights.by_channel
            certain = [
                confidence(view(n, w), view(n, weights.params[n].detach()), format, scales[n], width).mean() * w.numel()
                for n, w in weights.masters.items()
            ]
            total = sum(w.numel() for w in weights.masters.values())
            back = torch.stack([r.sum() for r in self._sums["reversed"].values()]).sum().item()
            columns = list(zip(*self._changes, strict=True))
            metrics = {
                "oscillation/reversals": back / total / len(self._changes),
                "oscillation/share": oscillating(
                    list(self._sums["jumped"].values()), list(self._sums["moved"].values())
                ).item(),
                "change/master": sum(columns[0]) / len(self._changes),
                "change/quantized": sum(columns[1]) / len(self._changes),
                "confidence": torch.stack(certain).sum().item() / total,
            }
            if self._output is not None:
                metrics["change/output"] = rate_of_change(self._run(trainer, task), self._output).item()
            log(trainer, metrics)
        self._sums, self._before, self._changes, self._output = {}, None, [], None

    def _count(self, masters: Any, quantized: Any, new_masters: Any, new_quantized: Any) -> None:
        sums = self._sums
        for n in masters:
            sums["moved"][n] += (new_masters[n] - masters[n]).abs()
            sums["jumped"][n] += (new_quantized[n] - quantized[n]).abs()
            back, sums["direction"][n] = reversals(new_quantized[n], quantized[n], sums["direction"][n])
            sums["reversed"][n] += back
        both = [(list(new.values()), list(old.values()))
                for new, old in ((new_masters, masters), (new_quantized, quantized))]  # fmt: skip
        self._changes.append((rate_of_change(*both[0]).item(), rate_of_change(*both[1]).item()))

    def _values(self, trainer: pl.Trainer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        weights = Quantization.of(trainer).weights
        return weights.masters, {n: p.detach() for n, p in weights.params.items()}

    def _look(self, trainer: pl.Trainer) -> None:
        masters, quantized = self._values(trainer)
        self._before = {n: w.clone() for n, w in masters.items()}, {n: w.clone() for n, w in quantized.items()}

    @torch.no_grad()
    def _run(self, trainer: pl.Trainer, task: Any) -> Tensor:
        """The network's output on the probe batch, evaluating; nothing in the training moves."""
        was = task.model.training
        task.model.eval()
        with Quantization.of(trainer).probe(), torch.compiler.set_stance("force_eager"):
            found: Tensor = task.model(task.probe_batch(self.batch_size)[0])
        task.model.train(was)
        return found.float()

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums, "changes": self._changes, "output": self._output}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {what: dict(each) for what, each in state["sums"].items()}
        self._changes, self._output = [tuple(pair) for pair in state["changes"]], state["output"]


class NormalizationAnew(pl.Callback):
    """At the end of the run: `val/<metric>_anew`, with batch-norm statistics that are means over training batches.

    (The run's own are averages over the last steps, in which quantized weights have moved.)

    Args:
        batches: of training data, not augmented.
    """

    def __init__(self, batches: int = 50) -> None:
        if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
            raise ValueError(f"indicators.anew.batches={batches!r}: give a whole number from 1 upward")
        self.batches = batches

    def on_validation_epoch_end(self, trainer: pl.Trainer, task: Any) -> None:
        if trainer.global_step < task.total_steps:
            return
        batches = unaugmented(task, self.batches)
        with (
            torch.random.fork_rng(devices=[]),
            Quantization.of(trainer).probe(),
            statistics_anew(task.model, batches, task.loss),
        ):
            log(trainer, {f"val/{name}_anew": value for name, value in evaluated(task).items()})


def unaugmented(task: Any, batches: int) -> Iterable[Any]:
    """The first so many training batches, as they are in the data set."""
    loader = task.train_batches()
    loader.augment = False
    return _on(task, islice(loader, batches))


@torch.no_grad()
def evaluated(task: Any) -> dict[str, float]:
    """Loss and metrics of a task over its validation set, by name, as its model is at present."""
    sums: dict[str, float] = {}
    total = 0
    for batch in _on(task, task.val_batches()):
        loss, metrics = task.loss(batch)
        size = task.size(batch)
        total += size
        for name, value in {"loss": loss, **metrics}.items():
            sums[name] = sums.get(name, 0.0) + value.item() * size
    return {name: value / total for name, value in sums.items()}


def _on(task: Any, batches: Iterable[Any]) -> Iterable[Any]:
    return ([part.to(task.device) for part in batch] for batch in batches)
