"""How far quantization turns the gradient, and how much it clips, measured on a probe batch during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ..indicators import angle
from ..weights.parameters import quantizable
from .quantization import Quantization
from .step import StepCallback, log

Gradients = dict[str, Tensor]


class Angles(StepCallback):
    """Every `every` steps, on a fixed probe batch of training examples, with the present quantized weights:

        angle/flow      degrees between the weight gradients with A, E and products' operands quantized and with all off
        angle/gradient  the same with G's own quantization added
        saturation, underflow   shares of A's and E's elements beyond the largest level, and rounded to zero;
                        means over all Edges, apart as activation/saturation, error/saturation, ...
        product/<slot>/saturation, product/<slot>/underflow   the same of the operands of products, means over them

    `per_layer` adds `angle/flow/layer/<name>` and `angle/gradient/layer/<name>`. The probe changes nothing in the
    training: not a buffer, a gradient, a scale or a random state. Frozen weights have no part in it.

    Args:
        every: optimizer steps between probes.
        batch_size: of the probe.
        per_layer: log angles for each weight as well.
    """

    def __init__(self, every: int, batch_size: int = 64, per_layer: bool = True) -> None:
        super().__init__(every)
        if batch_size < 2:
            raise ValueError(f"indicators.angles.batch_size={batch_size}: give at least 2 (batch normalization)")
        self.batch_size = batch_size
        self.per_layer = per_layer
        self._batch: Any = None

    def on_window(self, trainer: pl.Trainer, task: Any) -> None:
        quantization = Quantization.of(trainer)
        flow = quantization.flow
        if self._batch is None:
            self._batch = task.probe_batch(self.batch_size)

        def gradients() -> Gradients:
            with trainer.precision_plugin.train_step_context():
                loss, _ = task.loss(self._batch)
            return weight_gradients(loss, task.model)

        with untouched(task.model):
            with quantization.off():
                reference = alike(gradients)
            with quantization.probe(), flow.measure() as counts, quantization.measured_products() as lost:
                quantized = alike(gradients)
                metrics = shares(counts()) | shares_of_slots(lost())
            rounded = flow.quantize_gradients(quantized)
        metrics |= self._angles("angle/flow", quantized, reference)
        metrics |= self._angles("angle/gradient", rounded, reference)
        log(trainer, metrics)

    def _angles(self, key: str, g: Gradients, reference: Gradients) -> dict[str, float]:
        metrics = {}
        # A gradient that is zero or not finite has no direction: nothing is logged for it.
        if all(_has_direction(x.values()) for x in (g, reference)):
            metrics[key] = angle(list(g.values()), list(reference.values())).item()
        if self.per_layer:
            for name in g:
                if _has_direction([g[name]]) and _has_direction([reference[name]]):
                    metrics[f"{key}/layer/{name}"] = angle(g[name], reference[name]).item()
        return metrics


def weight_gradients(loss: Tensor, model: nn.Module) -> Gradients:
    """dL/dW of every weight that can be quantized and is trained, by name, leaving `.grad` alone; dense."""
    weights = {name: w for name, w in quantizable(model).items() if w.requires_grad}
    if not weights:
        return {}
    grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {
        n: torch.zeros_like(w) if g is None else g.to_dense()  # an embedding's may be sparse
        for (n, w), g in zip(weights.items(), grads, strict=True)
    }


def shares(counts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Means over the Edges: of activations and of errors apart, and of both together."""
    metrics: dict[str, float] = {}
    for what in ("saturation", "underflow"):
        both = []
        for kind in ("activation", "error"):
            values = [edge[f"{kind}/{what}"] for edge in counts.values() if f"{kind}/{what}" in edge]
            if values:
                metrics[f"{kind}/{what}"] = sum(values) / len(values)
            both += values
        if both:
            metrics[what] = sum(both) / len(both)
    return metrics


def shares_of_slots(lost: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Means over the products that have the slot."""
    found: dict[str, list[float]] = {}
    for slots in lost.values():
        for slot, own in slots.items():
            for what, share in own.items():
                found.setdefault(f"product/{slot}/{what}", []).append(share)
    return {key: sum(values) / len(values) for key, values in found.items()}


def alike(compute: Callable[[], Gradients]) -> Gradients:
    """`compute()` with the same random numbers at every call, so that dropout takes the same units."""
    torch.manual_seed(0)
    return compute()


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Within, the model may train: buffers (batch-norm statistics) and torch's random states come back afterwards.

    A compiled model runs eagerly here: a few probes do not repay compiling it again for each of their modes.
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, saved in buffers:
                    buffer.copy_(saved)


def _has_direction(gradients: Iterable[Tensor]) -> bool:
    gradients = list(gradients)
    if not gradients:
        return False
    norm = torch.stack([g.double().norm() for g in gradients]).norm()
    return bool(norm.isfinite() & (norm > 0))
