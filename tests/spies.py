"""Callbacks that tests add to a run by `+indicators.spy._target_=spies.Name`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lpt.callbacks.quantization import Quantization
from lpt.callbacks.step import StepCallback


class Watch(StepCallback):
    """Keeps the quantized weights after every step, and what W&B knows."""

    seen: list[dict[str, torch.Tensor]]
    wandb: dict[str, Any]

    def __init__(self) -> None:
        super().__init__(1)
        Watch.seen, Watch.wandb = [], {}

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        super().on_train_start(trainer, task)
        self._keep(trainer)

    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        self._keep(trainer)

    def on_fit_end(self, trainer: pl.Trainer, task: Any) -> None:
        for logger in trainer.loggers:
            if type(logger).__name__ == "WandbLogger":
                run = logger.experiment
                Watch.wandb = {"config": dict(run.config), "group": run.group, "tags": run.tags, "id": run.id}

    @staticmethod
    def _keep(trainer: pl.Trainer) -> None:
        weights = Quantization.of(trainer).weights
        Watch.seen.append({name: p.detach().clone() for name, p in weights.params.items()})


class Poison(StepCallback):
    """Makes a weight nan after a step."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(1)
        self.at, self.what = step, what

    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        if trainer.global_step == self.at:
            if self.what == "master":
                next(iter(Quantization.of(trainer).weights.masters.values())).view(-1)[0] = torch.inf
            elif self.what == "loss":
                means["loss"].fill_(torch.nan)
            else:
                raise RuntimeError("a failure of ours")


class Dump(StepCallback):
    """Writes what each rank holds at the end into $LPT_DUMP; fails after step $LPT_CRASH."""

    def __init__(self) -> None:
        super().__init__(1)

    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        if trainer.global_step == int(os.environ.get("LPT_CRASH", -1)):
            os._exit(9)

    def on_fit_end(self, trainer: pl.Trainer, task: Any) -> None:
        quantization = Quantization.of(trainer)
        scales = {name: state["scale"] for name, state in quantization.flow.state_dict().items()}
        held = {"weights": quantization.weights.state_dict(), "scales": scales}
        torch.save(held, Path(os.environ["LPT_DUMP"]) / f"rank{trainer.global_rank}.pt")
