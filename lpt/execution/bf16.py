"""`precision=bf16`: products in bfloat16 wherever their operands are exact in it.

A value of at most 8 significant bits at a power-of-two scale is a bfloat16. So A and E behind an Edge, and quantized
weights, enter a product as they are, and a single product of two of them is exact in the float32 in which it is added
up. The order of the sums is the hardware's, and a sum is rounded to bfloat16 before an Edge rounds it to its format.
The sum of two values (the network's input, the last error) needs more bits: its products run in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..dataflow.flow import INPUT, Flow
from ..dataflow.roles import PRODUCTS
from ..formats import Format


class ExactProducts:
    """Keeps the products of dual operands out of autocast: those of the network's input, and the last ones.

    Which modules take the network's input is seen while the model runs eagerly; a compiled model keeps to that.

    Args:
        flow: the handle of the model's data flow. The Trainer runs the model under autocast.
    """

    def __init__(self, flow: Flow) -> None:
        self._inputs: set[int] = set()  # where the network's input lies in memory
        self._dual: set[str] = set()  # modules whose products run in float32
        self._before: list[tuple[str, bool]] = []  # devices, and whether autocast was on there
        self._handles: list[Any] = []
        if INPUT in flow.edges and flow.flow.input != "single":
            self._handles.append(flow.model.register_forward_pre_hook(self._see_inputs, with_kwargs=True))
        for name, module in flow.model.named_modules():
            if isinstance(module, PRODUCTS):
                edge = flow.edges.get(name)
                if edge is not None and edge.activation is None:
                    self._dual.add(name)
                self._handles.append(module.register_forward_pre_hook(self._enter(name)))
                self._handles.append(module.register_forward_hook(self._leave(name), always_call=True))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _see_inputs(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if not torch.compiler.is_compiling():
            leaves = pytree.tree_leaves((args, kwargs))
            self._inputs = {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, Tensor)}

    def _enter(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any) -> Any:
            x = args[0]
            if not torch.compiler.is_compiling() and x.untyped_storage().data_ptr() in self._inputs:
                self._dual.add(name)
            if name not in self._dual:
                return None
            device = x.device.type
            self._before.append((device, torch.is_autocast_enabled(device)))
            torch.set_autocast_enabled(device, False)
            return x.float(), *args[1:]

        return hook

    def _leave(self, name: str) -> Callable[..., Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if name in self._dual and self._before:
                torch.set_autocast_enabled(*self._before.pop())

        return hook


@cache
def fits(format: Format) -> bool:
    """Is every value of `format` a bfloat16 (at a scale that keeps it in range)?"""
    if format.name == "bf16":
        return True
    if format.bits > 8:
        return False
    values = format.values()
    return bool((values.bfloat16() == values).all())
