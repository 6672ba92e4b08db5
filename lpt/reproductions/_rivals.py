"""Cheap rivals of the gradient's angle: how far rounding moves the tensors themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..dataflow import DataFlow, attach_
from ..dataflow.quantizer import Mode, Quantizer
from ..formats import Format
from ..search import Candidate, Probe

NAMES = ("mse/activation", "mse/error", "snr/activation", "snr/error", "snr/both")
KINDS = ("activation", "error")
OF = {"x": "activation", "wgrad_x": "activation", "dgrad_e": "error", "wgrad_e": "error"}


class Noise:
    """Of several schemes, by kind of tensor: sums of mean squared errors and of noise-to-signal ratios in decibels."""

    def __init__(self, schemes: int) -> None:
        self.sums = {kind: torch.zeros(2, schemes, dtype=torch.float64) for kind in KINDS}
        self.counts = {kind: torch.zeros(schemes) for kind in KINDS}

    def add(self, kind: str, i: int, x: Tensor, q: Tensor) -> None:
        """A tensor, and what scheme `i` makes of it."""
        noise = (q - x).double().square().mean()
        signal = x.double().square().mean()
        self.counts[kind][i] += 1
        self.sums[kind][0, i] += noise.item()
        self.sums[kind][1, i] -= 10 * torch.log10(signal / noise.clamp(min=1e-30)).item() if signal > 0 else 0.0


def rivals(
    model: nn.Module, batches: Sequence[Any], loss: Callable[[Any], Tensor], schemes: Sequence[Candidate]
) -> dict[str, list[float]]:
    """By name, for each scheme: mean squared errors, and signal-to-noise ratios in decibels with the sign turned, so
    that less is better for all.

    Means over the batches, and over all tensors A and E where training rounds them: behind modules, of a format in
    Edges; in slots x, wgrad_x and dgrad_e, wgrad_e, of products. Current scales without room, as in the search.
    """
    noise = Noise(len(schemes))
    edges = [(i, each.activation) for i, each in enumerate(schemes) if each.activation is not None]
    _of_edges(model, batches, loss, [(i, f) for i, f in edges if f is not None], noise)
    slots = [(i, each) for i, each in enumerate(schemes) if each.products is not None]
    if slots:
        with Probe(model, loss, candidates=[each for _, each in slots]) as probe:
            for n, batch in enumerate(batches):
                _of_slots(probe, batch, n, slots, noise)
    means = {kind: (noise.sums[kind] / noise.counts[kind].clamp(min=1)).tolist() for kind in KINDS}
    found = {f"mse/{kind}": means[kind][0] for kind in means} | {f"snr/{kind}": means[kind][1] for kind in means}
    both = zip(means["activation"][1], means["error"][1], strict=True)
    return {**found, "snr/both": [(a + e) / 2 for a, e in both]}


def _of_edges(
    model: nn.Module, batches: Sequence[Any], loss: Callable[[Any], Tensor], formats: Sequence[tuple[int, Format]],
    noise: Noise,
) -> None:  # fmt: skip
    quantizers = [(i, Quantizer(format, 0, False, Mode())) for i, format in formats]

    def seen(kind: str) -> Callable[[Tensor, bool], Tensor]:
        def see(x: Tensor, training: bool) -> Tensor:
            for i, quantizer in quantizers:
                noise.add(kind, i, x, quantizer(x, False))
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


@torch.no_grad()
def _of_slots(probe: Probe, batch: Any, n: int, schemes: Sequence[tuple[int, Candidate]], noise: Noise) -> None:
    assert probe.sites is not None
    probe.reference(batch)
    for i, each in schemes:
        with probe.sites.rounding((each, tuple(OF)), n):
            for site in probe.sites.sites.values():
                for record in site.records if site.part is not None else ():
                    for slot, kind in OF.items():
                        if slot in site.part.slots:  # type: ignore[union-attr]
                            t = record.x if kind == "activation" else record.e
                            noise.add(kind, i, t, site.rounded(record.kind, slot, t))
