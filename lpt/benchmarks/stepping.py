"""A training step on one batch, called again and again: what the scripts time and measure."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import DataFlow, Flow, attach_, attach_weights_
from ..formats.kernels import Library
from ..indicators import angle

PROBE_BATCH = 64  # examples


class Stepping:
    """One step of SGD with momentum, called again and again on `x` and `y`, which subclasses or users set.

    Args:
        model: the network, on its device.
        rate: the learning rate.
    """

    x: Tensor
    y: Tensor

    def __init__(self, model: nn.Module, rate: float) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        self.flow: Flow | None = None

    def quantize(self, fuse: bool, scaling: str = "tracked") -> Flow:
        """A, E and G in FP134, weights log4_hyst; with `fuse` the rounding is compiled. Returns the data flow."""
        self.flow = attach_(self.model, DataFlow(scaling=scaling))
        self.flow.mode.kernels = kernels = Library(wait=True) if fuse else None
        attach_weights_(self.model, self.optimizer, "log4_hyst", kernels=kernels)
        return self.flow

    def loss(self, share: int | None = None) -> Tensor:
        """Of the batch, or of its first `share` examples."""
        return nn.functional.cross_entropy(self.model(self.x[:share]), self.y[:share])

    def probe(self) -> None:
        """What the indicators do once in a while: the gradient's angle, saturation and underflow."""
        from ..callbacks.angles import untouched, weight_gradients  # Lightning's import is long

        assert self.flow is not None

        def gradients() -> list[Tensor]:
            return list(weight_gradients(self.loss(PROBE_BATCH), self.model).values())

        with untouched(self.model):
            with self.flow.off():
                reference = gradients()
            with self.flow.probe(), self.flow.measure() as counts:
                found = gradients()
                counts()
        angle(found, reference)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.loss().backward()
        if self.flow:
            self.flow.step()
        self.optimizer.step()
