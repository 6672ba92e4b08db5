"""A few weights watched closely, and where the masters stand between their thresholds: the paper's view of flicker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ..indicators import threshold_distance
from ..report.drawing import sheet
from ..report.figure import Axis, Figure, Series
from ..weights import QuantizedWeights
from .guarded import Guarded
from .quantization import Quantization
from .step import StepCallback
from .trackers import picture

BINS = 50


class Traces(StepCallback):
    """Records the master and the quantized value of `weights` chosen weights over the steps, and, `histograms` times
    in the run, the histogram of all masters' distances to their nearest flip threshold (in steps of the grid).

    Leaves `traces.npz` and `traces.png` in the run's folder; the histograms go to W&B too.

    Args:
        every: optimizer steps a transfer from the device.
        weights: how many, spread evenly over the layers.
        points: at most so many steps are recorded, spread evenly over the run.
        histograms: how many, the last one at the end of the run.
    """

    def __init__(self, every: int, weights: int = 8, points: int = 4000, histograms: int = 10) -> None:
        super().__init__(every)
        self.weights, self.points, self.histograms = weights, points, histograms
        self.steps: list[int] = []
        self.values: list[Tensor] = []  # [2, weights] each: masters, quantized
        self.counts: dict[int, Tensor] = {}  # step -> histogram
        self.chosen: list[tuple[str, int]] = []

    def on_fit_start(self, trainer: pl.Trainer, task: Any) -> None:
        self.chosen = _spread(Quantization.of(trainer).weights, self.weights)

    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        if not self.chosen:
            return
        step, total = trainer.global_step, task.total_steps
        quantized = Quantization.of(trainer).weights
        if step % max(1, -(-total // self.points)) == 0:
            self.steps.append(step)
            self.values.append(_look(quantized, self.chosen))
        if step % max(1, total // self.histograms) == 0:
            self.counts[step] = _histogram(quantized)
            _to_wandb(trainer, self.counts[step])

    def on_window(self, trainer: pl.Trainer, task: Any) -> None:
        self.values = [value.cpu() for value in self.values]

    def on_fit_end(self, trainer: pl.Trainer, task: Any) -> None:
        if trainer.is_global_zero and self.steps:
            self._write(Path(trainer.default_root_dir))
            picture(trainer, "traces", Path(trainer.default_root_dir) / "traces.png")

    def _write(self, folder: Path) -> None:
        values = torch.stack([value.cpu() for value in self.values]).numpy()
        names = [f"{name}[{index}]" for name, index in self.chosen]
        counts = np.array([count.tolist() for count in self.counts.values()])
        np.savez(
            folder / "traces.npz", step=np.array(self.steps), master=values[:, 0], quantized=values[:, 1],
            names=np.array(names), histogram_step=np.array(list(self.counts)), histogram=counts,
            bins=np.linspace(0, 1, BINS + 1),
        )  # fmt: skip
        sheet(_figures(np.array(self.steps), values, names, self.counts), folder, "traces", columns=1, suffixes=["png"])

    def state_dict(self) -> dict[str, Any]:
        values = torch.stack(self.values).cpu() if self.values else torch.empty(0)
        return {"steps": list(self.steps), "values": values, "counts": dict(self.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.values, self.counts = list(state["steps"]), list(state["values"]), dict(state["counts"])


def _spread(quantized: QuantizedWeights, count: int) -> list[tuple[str, int]]:
    """`count` weights as (name, flat index), a fixed choice spread over the layers and within each."""
    names = quantized.names
    if not names:
        return []
    generator = torch.Generator().manual_seed(0)
    picks = [names[i * len(names) // count % len(names)] for i in range(count)]
    return [(n, int(torch.randint(quantized.masters[n].numel(), (), generator=generator))) for n in picks]


def _look(quantized: QuantizedWeights, chosen: list[tuple[str, int]]) -> Tensor:
    """[2, len(chosen)] on the device: the masters and the quantized values, without waiting for the device."""
    masters = [quantized.masters[name].view(-1)[index] for name, index in chosen]
    values = [quantized.params[name].detach().view(-1)[index] for name, index in chosen]
    return torch.stack([torch.stack(masters), torch.stack(values)])


@torch.no_grad()
def _histogram(quantized: QuantizedWeights) -> Tensor:
    """How many masters lie how far from their nearest threshold: `BINS` equal bins from 0 to 1 step of the grid."""
    scheme = quantized.scheme
    width = getattr(scheme, "width", 0.0)
    counts = torch.zeros(BINS)
    for name in quantized.names:
        held = quantized.masters[name], quantized.params[name].detach()
        master, value = (quantized.by_channel(name, w) for w in held)
        distance = threshold_distance(master, value, scheme.format, quantized.scales[name], width)
        counts += torch.histc(distance.float(), BINS, 0.0, 1.0).cpu()
    return counts


def _to_wandb(trainer: pl.Trainer, counts: Tensor) -> None:
    for logger in trainer.loggers:
        if isinstance(logger, Guarded) and trainer.is_global_zero:
            import wandb

            histogram = wandb.Histogram(np_histogram=(counts.numpy(), np.linspace(0, 1, BINS + 1)))
            logger.log_objects({"threshold_distance": histogram, "trainer/global_step": trainer.global_step})


def _figures(steps: Any, values: Any, names: list[str], counts: dict[int, Tensor]) -> list[Figure]:
    """Two of the weights over the steps, and histograms of the distances to thresholds."""
    found = []
    for i in dict.fromkeys((0, len(names) // 2)):
        pair = [Series("master", steps.tolist(), values[:, 0, i].tolist()),
                Series("quantized", steps.tolist(), values[:, 1, i].tolist(), stepped=True)]  # fmt: skip
        found.append(Figure(f"trace{i}", names[i], "lines", Axis("optimizer step"), Axis("weight"), pair))
    edges, series = np.linspace(0, 1, BINS + 1).tolist(), []
    for step, count in list(counts.items())[:: max(1, len(counts) // 4)]:
        share = (count / max(1.0, float(count.sum()))).tolist()
        series.append(Series(f"step {step:,}", edges, [*share, share[-1]], stepped=True))
    distance = Axis("distance of the master to its nearest threshold (steps of the grid)")
    title = "where the masters stand"
    return [*found, Figure("distance", title, "lines", distance, Axis("share of weights"), series)]
