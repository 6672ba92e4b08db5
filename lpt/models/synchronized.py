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

    y = (x - m) / sqrt(v + eps) * weight + bias, with m and v over the examples of all ranks. Sums are in float64, so
    that they hardly depend on how many ranks there are, and one rank computes in the same way. In evaluation it
    computes what the module did that it was made from.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch normalization takes (N, C, ...), got a tensor of {input.dim()} dimensions")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        self._check_input_dim(x)
        alone = x.numel() == x.shape[1] and _ranks() == 1  # one value a channel, which torch refuses
        if alone or not (self.training or self.running_mean is None):
            return super().forward(x)
        y, mean, variance, count = _Normalized.apply(x, self.weight, self.bias, self.eps)
        if self.training and self.track_running_stats:
            self._track(mean, variance * count / (count - 1))
        return y  # type: ignore[no-any-return]

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


class _Normalized(torch.autograd.Function):
    """x, weight and bias (or None), eps -> y, and the mean, the variance and the number of examples of all ranks.

    With h = (x - m) / sqrt(v + eps), n examples of all ranks and e = dL/dy, the sums over all of them:
    dx = weight / sqrt(v + eps) * (e - sum(e) / n - h * sum(e h) / n), dweight = sum(e h), dbias = sum(e). Of these two
    each rank gets its part of the sums, the same for all, so that DDP's mean over ranks leaves the bits as they are.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        own = torch.full((1,), x.numel() // x.shape[1], dtype=torch.float64, device=x.device)
        dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        sums = _summed(torch.cat([_over_examples(x), own]))
        mean, count = sums[:-1] / sums[-1], sums[-1]
        centred = x - _broad(mean, x)
        variance = _summed(_over_examples(centred.square())) / count
        scale = (variance + eps).rsqrt()
        normal = centred * _broad(scale, x)
        y = normal if weight is None or bias is None else normal * _broad(weight, x) + _broad(bias, x)
        ctx.save_for_backward(normal, weight, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return y.to(dtype), mean, variance, count

    @staticmethod
    def backward(ctx: Any, e: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        normal, weight, scale, count = ctx.saved_tensors
        dtype, e = e.dtype, e.to(normal.dtype)
        sums = _summed(torch.stack([_over_examples(e), _over_examples(e * normal)]))
        mean, along = sums / count
        dx = (e - _broad(mean, e) - normal * _broad(along, e)) * _broad(scale if weight is None else scale * weight, e)
        if weight is None:
            return dx.to(dtype), None, None, None
        dbias, dweight = (sums / _ranks()).to(weight.dtype)
        return dx.to(dtype), dweight, dbias, None


def _over_examples(x: Tensor) -> Tensor:
    """(N, C, ...) -> (C,), summed in float64."""
    return x.sum([d for d in range(x.dim()) if d != 1], dtype=torch.float64)


def _broad(x: Tensor, like: Tensor) -> Tensor:
    """(C,), as it is joined with (N, C, ...), in its dtype."""
    return x.to(like.dtype).view([1, -1, *[1] * (like.dim() - 2)])


def _summed(x: Tensor) -> Tensor:
    total = x.detach().clone()
    if _ranks() > 1:
        torch.distributed.all_reduce(total)
    return total


def _ranks() -> int:
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if initialized else 1
