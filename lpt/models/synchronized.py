"""Batch normalization whose statistics are those of the batches of all processes together, on any device.

torch.nn.SyncBatchNorm needs a GPU, and takes another module's place, which hooks do not survive.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SyncBatchNorm(_BatchNorm):
    """`nn.BatchNorm*d` of all processes' batches: N ranks with batches of B / N train as one with a batch of B.

    y = (x - m) / sqrt(v + eps) * weight + bias, with m and v over the examples of all ranks. With one process, and in
    evaluation, it computes what the module did that it was made from.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch normalization takes (N, C, ...), got a tensor of {input.dim()} dimensions")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        if not (self.training or self.running_mean is None) or _world() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        own = torch.full((1,), x.numel() // x.shape[1], dtype=x.dtype, device=x.device)
        sums = _Sum.apply(torch.cat([x.sum(dims), own]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        if self.training and self.track_running_stats:
            self._track(mean.detach(), variance.detach() * count / (count - 1))
        y = centred * (variance + self.eps).rsqrt().view(shape)
        return y if self.weight is None else y * self.weight.view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            assert running is not None
            running.lerp_(new.to(running.dtype), share)


def synchronize_(model: nn.Module) -> int:
    """Let every batch normalization of `model` be of all processes; returns how many there are.

    The modules, their hooks, parameters and names stay; attach what quantizes before or after.
    """
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    found = [module for module in model.modules() if type(module) in kinds]
    for module in found:
        module.__class__ = SyncBatchNorm
    return len(found)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _summed(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _summed(g)


def _summed(x: Tensor) -> Tensor:
    total = x.detach().clone()
    torch.distributed.all_reduce(total)
    return total


def _world() -> int:
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if initialized else 1
