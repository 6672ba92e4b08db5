"""Cheap rivals of the gradient's angle: how far rounding moves the tensors themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..dataflow import DataFlow, attach_
from ..dataflow.quantizer import Mode, Quantizer
from ..formats import Format

NAMES = ("mse/activation", "mse/error", "snr/activation", "snr/error", "snr/both")


def rivals(
    model: nn.Module, batches: Sequence[Any], loss: Callable[[Any], Tensor], formats: Sequence[Format]
) -> dict[str, list[float]]:
    """By name, for each format: mean squared errors, and signal-to-noise ratios in decibels with the sign turned, so
    that less is better for all.

    Means over all tensors A and E where training rounds them, and over the batches; current scales without room, as
    in the search.
    """
    quantizers = [Quantizer(format, 0, False, Mode()) for format in formats]
    sums = {kind: torch.zeros(2, len(formats), dtype=torch.float64) for kind in ("activation", "error")}
    counts = dict.fromkeys(sums, 0)

    def seen(kind: str) -> Callable[[Tensor, bool], Tensor]:
        def see(x: Tensor, training: bool) -> Tensor:
            counts[kind] += 1
            for i, quantizer in enumerate(quantizers):
                noise = (quantizer(x, False) - x).double().square().mean()
                signal = x.double().square().mean()
                sums[kind][0, i] += noise.item()
                sums[kind][1, i] -= 10 * torch.log10(signal / noise.clamp(min=1e-30)).item() if signal > 0 else 0.0
            return x.clone()

        return see

    was = model.training
    model.eval()
    flow = attach_(model, DataFlow(gradient="fp32", input="fp32"))
    flow.exchange(lambda kind, dual: seen(kind))
    for batch in batches:
        loss(batch).backward()
    flow.remove()
    model.zero_grad()
    model.train(was)
    means = {kind: (sums[kind] / counts[kind]).tolist() for kind in sums}
    found = {f"mse/{kind}": means[kind][0] for kind in means} | {f"snr/{kind}": means[kind][1] for kind in means}
    both = zip(means["activation"][1], means["error"][1], strict=True)
    return {**found, "snr/both": [(a + e) / 2 for a, e in both]}
