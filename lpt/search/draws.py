"""The two numbers of a scheme that rounds at random, or is biased: what stays of its error over many steps, and what
averages out.

With g(n, d) the gradient of batch n with everything rounded, at draw d of the random bits, r(n) that in full precision,
N batches, D draws, means written without their index:

    systematic        the angle between g and r, less what the draws' noise leaves of itself in the mean g: of the part
                      p of g at right angles to r, |p|^2 - V / (N D) is taken, not below 0
    noise to signal   V over the mean of |r(n)|^2

where V is the mean over batches of the draws' variance, sum over d of |g(n, d) - g(n)|^2 / (D - 1), and 0 of what draws
no random bits. A scheme that is unbiased has a systematic angle of 0, however noisy; one that rounds to nearest has no
noise, and the part of its error that differs from batch to batch averages out of its systematic angle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .candidates import Candidate
from .probe import ORTHOGONAL, Probe


@dataclass(frozen=True)
class TwoNumbers:
    """`systematic` in degrees, `noise_to_signal` a ratio of squares."""

    systematic: float
    noise_to_signal: float


class Sums:
    """Of one scheme: gradients are added batch by batch, float64 vectors of one length.

    Args:
        length: of a gradient.
    """

    def __init__(self, length: int) -> None:
        self.rounded = torch.zeros(length, dtype=torch.float64)
        self.reference = torch.zeros(length, dtype=torch.float64)
        self.variance, self.signal = 0.0, 0.0
        self.batches, self.draws = 0, 0

    def add(self, draws: Sequence[Tensor], reference: Tensor) -> None:
        """A batch: its gradients at each draw, as many for every batch, and the one in full precision."""
        mean = torch.stack(list(draws)).mean(0)
        self.rounded += mean
        self.reference += reference
        if len(draws) > 1:
            self.variance += sum(float((g - mean).square().sum()) for g in draws) / (len(draws) - 1)
        self.signal += float(reference.square().sum())
        self.batches, self.draws = self.batches + 1, len(draws)

    def numbers(self) -> TwoNumbers:
        """The two numbers of what was added."""
        g, r = self.rounded / self.batches, self.reference / self.batches
        noise = self.variance / self.batches
        along = float(g @ r) / float(r.norm())
        across = float((g - along * r / r.norm()).square().sum()) - noise / (self.batches * self.draws)
        nothing = along == 0 and across <= 0
        systematic = ORTHOGONAL if nothing else math.degrees(math.atan2(math.sqrt(max(0.0, across)), along))
        return TwoNumbers(systematic, noise / (self.signal / self.batches))


def two_numbers(probe: Probe, batches: Sequence[Any], candidates: Sequence[Candidate], draws: int) -> list[TwoNumbers]:
    """Of each candidate, on these batches; one that takes no random bits is drawn once.

    Args:
        probe: entered, with `whole=True`.
        draws: 2 or more.
    """
    sums: list[Sums] = []
    for n, batch in enumerate(batches):
        reference = flat(probe.reference(batch))
        sums = sums or [Sums(len(reference)) for _ in candidates]
        for each, own in zip(candidates, sums, strict=True):
            count = draws if each.random else 1
            own.add([flat(probe.gradient(batch, each, n * draws + d)) for d in range(count)], reference)
    return [own.numbers() for own in sums]


def flat(gradients: Sequence[Tensor]) -> Tensor:
    """One float64 vector on the CPU."""
    return torch.cat([g.detach().to("cpu", torch.float64).reshape(-1) for g in gradients])
