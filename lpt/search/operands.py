"""The weight gradient of one product from its stored operands: G = A^T E."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dataflow.ops import Function

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass
class Use:
    """One call of a product: its weight's name, its input A, and the error E of its output."""

    weight: str
    module: nn.Module
    operand: Tensor
    dual: bool  # the operand is the network's input
    rows: slice  # of the weight that this product uses
    error: Tensor | None = None


def is_linear(module: nn.Module) -> bool:
    """Is it `Function(F.linear)`, a product that is handed its weight?"""
    return isinstance(module, Function) and module.function is F.linear


def rows_of(weight: Tensor, whole: Tensor) -> slice | None:
    """Which rows of the parameter `whole` [O, I] the tensor `weight` is: itself, or a view of some; None if neither."""
    if weight is whole:
        return slice(None)
    if weight._base is not whole or weight.shape[1:] != whole.shape[1:] or weight.stride() != whole.stride():
        return None
    first, within = divmod(int(weight.storage_offset() - whole.storage_offset()), whole.stride(0))
    return None if within else slice(first, first + len(weight))


def weight_gradient(module: nn.Module, a: Tensor, e: Tensor) -> Tensor:
    """G of the product's weight for the input `a` and the output's gradient `e`: linear in both.

    For linear layers and convolutions as the backward pass computes it; for any other product, or padding that is not
    with zeros, by the chain rule through the module's own forward.
    """
    if isinstance(module, nn.Linear) or is_linear(module):
        return e.flatten(0, -2).T @ a.flatten(0, -2) if e.ndim > 1 else torch.outer(e, a)
    weight: Tensor = module.weight  # type: ignore[assignment]
    if isinstance(module, CONVOLUTIONS) and module.padding_mode == "zeros" and not isinstance(module.padding, str):
        batched = a.ndim == weight.ndim
        a, e = (a, e) if batched else (a[None], e[None])
        _, gradient, _ = torch.ops.aten.convolution_backward(
            e, a, weight, None, module.stride, module.padding, module.dilation, module.transposed,
            _output_padding(module, a, e), module.groups, [False, True, False],
        )  # fmt: skip
        return gradient
    with torch.enable_grad():
        output = type(module).forward(module, a)
    return torch.autograd.grad(output, weight, e)[0]


def _output_padding(module: Any, a: Tensor, e: Tensor) -> list[int]:
    """Of a transposed convolution, whose output size may have been asked for at the call; zeros for any other."""
    if not module.transposed:
        return [0] * (a.ndim - 2)
    stride, padding, dilation, kernel = module.stride, module.padding, module.dilation, module.kernel_size
    return [
        e.shape[2 + i] - ((a.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1)
        for i in range(a.ndim - 2)
    ]
