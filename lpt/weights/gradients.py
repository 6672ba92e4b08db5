"""Remedies on the gradients: a term that pulls masters to their levels, and estimators in place of straight-through.

The straight-through estimator gives the master the gradient of the quantized weight as it is. A place between two
levels is told in steps of the grid, the distance between the levels around the master; it is 0 at a level, and beyond
the largest one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .remedy import Moment, Remedy, check_positive, check_share, cosine
from .weight import Weight


class Dampening(Remedy):
    """Adds strength * sum (w - Q(w))^2 to the loss, Q(w) taken as constant: each master is pulled to its level.

    By its gradient, so that it is not rounded with G: 2 strength (w - Q(w)), for a convolution divided by the size of
    its kernel. A master beyond the largest level is not pulled.

    Args:
        strength: reached at the end, along half a cosine from 0.
        after: share of the training before which there is no such term.
    """

    source = "Nagel et al. 2022 (arXiv 2203.11086), oscillation dampening"
    certainty = "code read"
    follows = True

    def __init__(self, strength: float = 0.1, after: float = 0.25) -> None:
        check_positive("strength", strength)
        check_share("after", after)
        self.strength, self.after = strength, after

    def before_step(self, moment: Moment) -> None:
        if moment.share < self.after:
            return
        strength = cosine(moment.share, 0.0, self.strength, self.after)
        for w in moment.weights:
            low, high = around(w)
            away = torch.where(high > low, w.master - w.quantized.to(w.master.dtype), 0.0)
            gradient(w).add_(away, alpha=2 * strength / math.prod(w.master.shape[2:]))


class EWGS(Remedy):
    """Scales each gradient g by 1 + delta sgn(g) (w - Q(w)) / step: more if its step leads w towards Q(w), else less.

    (A descent moves w against the sign of g.)

    Args:
        delta: a constant (the authors' scripts for CIFAR-10; elsewhere they follow the Hessian's trace: not here).
    """

    source = "Lee et al. 2021 (arXiv 2104.00903), EWGS"
    certainty = "code read"

    def __init__(self, delta: float = 0.001) -> None:
        check_positive("delta", delta)
        self.delta = delta

    def before_step(self, moment: Moment) -> None:
        for w in moment.weights:
            low, high = around(w)
            step = high - low
            place = torch.where(step > 0, (w.master - w.quantized.to(w.master.dtype)) / step, 0.0)
            g = gradient(w)
            g.mul_(1 + self.delta * g.sign() * place)


class StableQAT(Remedy):
    """Scales each gradient by (1 - a cos(pi d)) / (1 + a cos(pi d)), d the way to the nearest level, in steps.

    a = sqrt(2) pi amplitude: 1 at the middle between two levels, (1 - a) / (1 + a) on a level.

    Args:
        amplitude: of the sine that stands for the stairs; below 1 / (sqrt(2) pi) = 0.225.
    """

    source = "StableQAT (arXiv 2601.19320)"
    certainty = "code read"

    def __init__(self, amplitude: float = 0.21) -> None:
        check_positive("amplitude", amplitude)
        check_share("amplitude", amplitude, 0.225)
        self.a = math.sqrt(2) * math.pi * amplitude

    def before_step(self, moment: Moment) -> None:
        for w in moment.weights:
            low, high = around(w)
            step = high - low
            place = torch.where(step > 0, (w.master - low) / step, 0.0)
            wave = self.a * torch.cos(math.pi * (place - place.round()))
            gradient(w).mul_((1 - wave) / (1 + wave))


def around(w: Weight) -> tuple[Tensor, Tensor]:
    """The levels at or below, and at or above each master on its grid of now, in the weight's shape."""
    found = torch.empty_like(w.master), torch.empty_like(w.master)
    view = w.channels.view(w.master)
    w.channels.view(found[0]).copy_(w.plan.format.floor(view, scale=w.scale))
    w.channels.view(found[1]).copy_(w.plan.format.ceil(view, scale=w.scale))
    return found


def gradient(w: Weight) -> Tensor:
    """The weight's gradient, to be changed in place.

    Raises:
        ValueError: it is sparse.
    """
    grad = w.param.grad
    assert grad is not None
    if grad.is_sparse:
        raise ValueError(
            f"the gradient of {w.name!r} is sparse, and this remedy works on dense ones: make the embedding with "
            "sparse=False, or leave its weight in full precision with skip="
        )
    return grad
