"""Errors that nobody would see: an Edge that rounds nothing, weights off their grid, a probe that changes what it sees.

`checks=first` looks during the first steps of each start; `always` at every step; `off` never.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from ..dataflow.fired import Watched
from ..errors import UserError
from ..formats.scaling import NO_SCALE
from ..weights.checked import checksums, odd_scales, off_grid
from .quantization import Quantization
from .step import StepCallback, every_rank

MODES = ("off", "first", "always")
FIRST = 3  # optimizer steps of a start that `first` looks at
RANKS = 50  # optimizer steps between two comparisons of ranks


class SilentError(RuntimeError):
    """The run would have gone on with numbers that are not what they are said to be."""


class Checks(StepCallback):
    """Raises a `SilentError` that names the module.

        first step      an Edge or a product that rounded nothing, although its module ran or got a gradient
        first or all    a weight with a value off its grid; a scale that is infinite or zero
        windows         an indicator that changed what is trained (the first window of each, or all)
        every 50 steps  ranks that do not hold the same quantized weights (not with off)

    Args:
        mode: off, first or always.
        probes: the indicators.

    Raises:
        UserError: another mode.
    """

    def __init__(self, mode: Any = "first", probes: list[Any] | None = None) -> None:
        super().__init__(every=1)
        mode = "off" if mode is False else mode
        if mode not in MODES:
            raise UserError(f"checks={mode!r} is not one of {', '.join(MODES)}")
        self.mode = mode
        self._probes = [p for p in probes or [] if isinstance(p, StepCallback)]
        self._watched: Watched | None = None
        self._taken = 0
        self._started: set[str] = set()  # tracked scales that have been seen with a value

    def on_train_start(self, trainer: pl.Trainer, task: Any) -> None:
        super().on_train_start(trainer, task)
        self._taken = 0
        if self.mode == "off":
            return
        quantization = Quantization.of(trainer)
        self._watched = Watched(quantization.flow, quantization.products)
        for probe in self._probes:
            vars(probe)["on_window"] = _Probed(probe, self.mode == "always")

    def on_before_optimizer_step(self, trainer: pl.Trainer, task: Any, optimizer: Any) -> None:
        if self._watched is not None:
            silent = self._watched.silent()
            self._unwatch()
            for name, what in silent.items():
                raise SilentError(f"{name}: {what} in the first step (checks=off does not look)")

    def on_step(self, trainer: pl.Trainer, task: Any, means: Any) -> None:
        if self.mode == "off":
            return
        self._taken += 1
        quantization = Quantization.of(trainer)
        if self.mode == "always" or self._taken <= FIRST:
            step = f"after step {trainer.global_step}"
            for name in odd_scales(quantization.weights):
                raise SilentError(f"{name}: a scale of this weight is infinite or zero {step}")
            for name in off_grid(quantization.weights):
                raise SilentError(f"{name}: a value of this weight is off its grid {step}")
            for name in odd_tracked(quantization.flow.state_dict(), self._started):
                raise SilentError(f"{name}: the tracked scale is infinite or zero {step}")
        if trainer.world_size > 1 and (self._taken == 1 or trainer.global_step % RANKS == 0):
            for name in disagreeing(quantization):
                raise SilentError(f"{name}: processes hold other quantized weights after step {trainer.global_step}")

    def on_exception(self, trainer: pl.Trainer, task: Any, exception: BaseException) -> None:
        self._unwatch()

    def teardown(self, trainer: pl.Trainer, task: Any, stage: str) -> None:
        self._unwatch()
        for probe in self._probes:
            vars(probe).pop("on_window", None)

    def _unwatch(self) -> None:
        if self._watched is not None:
            self._watched.close()
            self._watched = None


class _Probed:
    """An indicator's `on_window`, with a look at the training before and after it."""

    def __init__(self, probe: StepCallback, always: bool) -> None:
        self.work, self.name, self.looking, self.always = probe.on_window, type(probe).__name__, True, always

    def __call__(self, trainer: pl.Trainer, task: Any) -> None:
        if not self.looking:
            return self.work(trainer, task)
        self.looking = self.always
        before = dict(fingerprint(trainer, task))
        self.work(trainer, task)
        after = dict(fingerprint(trainer, task))
        for what in [*before, *after]:
            if before.get(what) != after.get(what):
                raise SilentError(f"{what}: the indicator {self.name} changed it at step {trainer.global_step}")
        return None


def fingerprint(trainer: pl.Trainer, task: Any) -> Iterator[tuple[str, Any]]:
    """What decides how the training goes on, a number each: weights, gradients, buffers, scales, modes, generators."""
    quantization = Quantization.of(trainer)
    tensors: dict[str, Tensor] = dict(task.model.named_buffers())
    for name, p in task.model.named_parameters():
        tensors[name] = p.detach()
        if p.grad is not None:
            tensors[f"the gradient of {name}"] = p.grad
    tensors |= {f"the master of {name}": master for name, master in quantization.weights.masters.items()}
    tensors |= {f"the scale of {name}": scale for name, scale in quantization.weights.scales.items()}
    for name, held in quantization.flow.state_dict().items():
        tensors |= {f"{kind} of {name}": value for kind, value in held.items() if isinstance(value, Tensor)}
    if quantization.products is not None:
        tensors |= {f"the random bits of {name}": calls for name, calls in quantization.products.state_dict().items()}
    for optimizer in trainer.optimizers:
        for number, held in enumerate(optimizer.state.values()):
            tensors |= {f"the optimizer's {k} of weight {number}": v for k, v in held.items() if isinstance(v, Tensor)}
    yield from ((name, _crc(tensor)) for name, tensor in tensors.items())
    yield from ((f"the mode of {name or 'the model'}", module.training) for name, module in task.model.named_modules())
    yield "the data flow's switches", (quantization.flow.mode.on, quantization.flow.mode.observing)
    yield "torch's generator", _crc(torch.get_rng_state())
    yield "Python's generator", random.getstate()
    numpy: Any = np.random.get_state()
    yield "NumPy's generator", (numpy[1].tobytes(), *numpy[2:])


def odd_tracked(state: dict[str, Any], started: set[str]) -> list[str]:
    """The tracked scales, exponents, of which two to their power is infinite or zero in float32.

    A scale that has seen nothing but zeros is no number yet; of those that were one, `started` keeps the names.
    """
    scales = {name: held["scale"] for name, held in state.items() if held["scale"].numel() == 1}
    if not scales:
        return []
    values = torch.stack([scale.reshape(()) for scale in scales.values()]).tolist()
    odd = [n for n, e in zip(scales, values, strict=True) if not -149 <= e <= 127 or (e == NO_SCALE and n in started)]
    started |= {name for name, e in zip(scales, values, strict=True) if e != NO_SCALE}
    return odd


def disagreeing(quantization: Quantization) -> list[str]:
    """The weights whose quantized values are not the same on all ranks."""
    first, *others = (sums.tolist() for sums in every_rank(checksums(quantization.weights).cpu()))
    names = quantization.weights.names
    return [n for i, n in enumerate(names) if any(sums[i] != first[i] for sums in others)]


def _crc(tensor: Tensor) -> int:
    tensor = tensor.to_dense() if tensor.layout != torch.strided else tensor
    flat = tensor.detach().contiguous().view(-1).cpu()
    return zlib.crc32(flat.view(torch.uint8).numpy().tobytes()) if flat.numel() else 0
