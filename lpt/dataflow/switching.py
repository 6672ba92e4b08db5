"""What a model's rounded products do at present, and how those who do not know of them switch them off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from ..formats.kernels import Library

HANDLE = "_lpt_products"  # where a model keeps the handle of its products


@dataclass
class Switches:
    """What all products of one model do at present; shared by them and switched by their handle."""

    on: bool = True  # round at all
    observing: bool = True  # let random bits advance
    counting: bool = False  # count saturation and underflow
    packed: bool = False  # keep codes for the backward pass
    kernels: Library | None = None  # compiled passes over memory; None computes eagerly


@contextmanager
def products_off(model: nn.Module) -> Iterator[None]:
    """Within, the products of `model`, if any are rounded, are not."""
    handle = model.__dict__.get(HANDLE)
    with nullcontext() if handle is None else handle.off():
        yield


def again() -> bool:
    """Whether this forward pass is one that a checkpoint computes again, in the middle of the backward pass.

    Raises:
        RuntimeError: a checkpoint of the older kind, whose first pass has left no trace to compare with.
    """
    if torch.compiler.is_compiling() or (node := torch._C._current_autograd_node()) is None:
        return False
    if type(node).__name__ == "CheckpointFunctionBackward":
        raise RuntimeError(
            "products that draw random bits cannot be computed again by torch.utils.checkpoint with "
            "use_reentrant=True: give use_reentrant=False"
        )
    return True
