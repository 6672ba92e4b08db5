"""Weights that stay codes in memory: decoded where a module reads them, each time anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ..weights.parameters import owner

Decode = Callable[[Mapping[str, Tensor]], Tensor]
OPAQUE = (nn.RNNBase, nn.MultiheadAttention)  # hand their weights to one kernel, by lists of their own


def hold_(model: nn.Module, name: str, tensors: Mapping[str, Tensor], decode: Decode) -> bool:
    """Put `tensors` in the place of the parameter `name`, which is then decode(tensors); False where it cannot be.

    They become buffers of its module, whose class becomes one with a property of the parameter's name.
    """
    module, attribute = owner(model, name), name.rpartition(".")[2]
    if isinstance(module, OPAQUE) or attribute not in module._parameters:
        return False
    buffers = {key: f"{attribute}_{key.replace('.', '_')}" for key in tensors}
    del module._parameters[attribute]
    for key, tensor in tensors.items():
        module.register_buffer(buffers[key], tensor)
    _property(module, attribute, lambda self: decode({key: getattr(self, buffer) for key, buffer in buffers.items()}))
    return True


def share_(model: nn.Module, name: str, other: str) -> bool:
    """Let the parameter `name` be what `other`, which is held, is; False where it cannot be."""
    module, attribute = owner(model, name), name.rpartition(".")[2]
    if isinstance(module, OPAQUE) or attribute not in module._parameters:
        return False
    source, there = owner(model, other), other.rpartition(".")[2]
    del module._parameters[attribute]
    module.__dict__[f"_{attribute}_of"] = source  # no submodule of it
    _property(module, attribute, lambda self: getattr(self.__dict__[f"_{attribute}_of"], there))
    return True


def _property(module: nn.Module, attribute: str, read: Callable[[Any], Tensor]) -> None:
    module.__class__ = type(type(module).__name__, (type(module),), {attribute: property(read)})
