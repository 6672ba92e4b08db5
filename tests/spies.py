"""Callbacks that tests add to a run by `+indicators.spy._target_=spies.Name`."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lpt.callbacks.guarded import Guarded
from lpt.callbacks.quantization import Quantization
from lpt.callbacks.signals import Stopped
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
            if isinstance(logger, Guarded):
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


class Stop(StepCallback):
    """Stops the run after step `Stop.at`, as a kill there would: the checkpoints before it are left."""

    at = -1

    def __init__(self) -> None:
        super().__init__(1)

    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        if trainer.global_step == Stop.at:
            raise Stopped


class Signal(StepCallback):
    """Sends this process a signal at a `moment`: in the first validation, at the fit's end, or at its teardown."""

    def __init__(self, moment: str, number: int) -> None:
        super().__init__(1)
        self.moment, self.number = moment, number
        Signal.batches = 0

    batches = 0  # of validation, after the signal and with it

    def _send(self, moment: str) -> None:
        if moment == self.moment:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_end(self, *_: Any) -> None:
        if not Signal.batches:
            self._send("validation")
        Signal.batches += 1

    def on_fit_end(self, trainer: pl.Trainer, task: Any) -> None:
        self._send("end")

    def teardown(self, trainer: pl.Trainer, task: Any, stage: str) -> None:
        self._send("teardown")


class Sabotage(StepCallback):
    """Breaks what nobody would see, `what`, before or in the first step."""

    def __init__(self, what: str) -> None:
        super().__init__(1)
        self.what = what

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        super().on_train_start(trainer, task)
        if self.what == "edge":
            task.model.conv._forward_hooks.clear()
        elif self.what == "product":
            del task.model.fc.__dict__["forward"]

    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        quantization = Quantization.of(trainer)
        if self.what == "weight":
            task.model.fc.weight.data.view(-1)[0] = 0.3
        elif self.what == "scale":
            quantization.weights.scales["fc.weight"].fill_(300)
        elif self.what == "tracked":
            quantization.flow.edges["conv"].activation.scale.fill_(-200)

    def on_window(self, trainer: pl.Trainer, task: Any) -> None:
        if self.what == "buffer":
            next(iter(task.model.buffers())).add_(1)
        elif self.what == "mode":
            task.model.eval()
        elif self.what == "generator":
            torch.rand(1)


class KillService(StepCallback):
    """Kills W&B's service after a step."""

    def __init__(self, step: int) -> None:
        super().__init__(1)
        self.at = step

    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        if trainer.global_step != self.at:
            return
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if b"wandb-core" in words[0] and str(os.getpid()).encode() in words:
                    os.kill(int(path.parent.name), signal.SIGKILL)


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
