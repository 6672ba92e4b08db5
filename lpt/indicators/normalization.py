"""Batch-norm statistics estimated anew: those of training are averages over weights that have since changed."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def statistics_anew(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[Any], Any] | None = None
) -> Iterator[None]:
    """Within, the model evaluates, and its batch-norm statistics are the means over these batches; as before after.

    Args:
        batches: of training data, without augmentation as a rule.
        forward: what runs the model on a batch; the model itself if None.
    """
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    was = {module: module.training for module in model.modules()}
    kept = [({k: v.clone() for k, v in m.named_buffers(recurse=False)}, m.momentum) for m in layers]
    model.eval()
    try:
        for m in layers:
            m.reset_running_stats()
            m.momentum = None  # torch's word for the plain mean
            m.train()
        with torch.no_grad():
            for batch in batches if layers else ():
                (forward or model)(batch)
        for m in layers:
            m.eval()
        yield
    finally:
        with torch.no_grad():
            for m, (buffers, momentum) in zip(layers, kept, strict=True):
                m.momentum = momentum
                for name, value in buffers.items():
                    m.get_buffer(name).copy_(value)
        for module, training in was.items():
            module.training = training
