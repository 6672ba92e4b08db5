"""What takes the place of a module's `forward`: its product with rounded operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .kinds import Convolution, Kind, Linear, MatMul
from .multiply import Multiply
from .ops import Function
from .ops import MatMul as MatMulModule
from .product import Product
from .slots import Accumulate
from .switching import again

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)


class Multiplying:
    """The forward pass of one module, in the place of its own."""

    def __init__(self, module: nn.Module, root: nn.Module, product: Product) -> None:
        self.module, self.root, self.product, self.switches = module, root, product, product.switches
        self.padded, self.padding_mode = _padding(module)
        self.ran = False

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        module = self.module
        if not self.switches.on:
            return type(module).forward(module, *args, **kwargs)
        if not self.ran:
            self.ran = True
        if isinstance(module, nn.Linear):
            return self._multiplied(_given(args, kwargs, "input")[0], module.weight, module.bias)
        if isinstance(module, Function):
            x, w, bias = _given(args, kwargs, "input", "weight", "bias")
            return self._multiplied(x, w, bias)
        if isinstance(module, MatMulModule):
            return self._matrices(*_given(args, kwargs, "a", "b"))
        return self._convolved(*_given(args, kwargs, "input", "output_size"))

    def _matrices(self, a: Tensor, b: Tensor) -> Tensor:
        y = self._multiplied(a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b, None)
        y = y.squeeze(-1) if b.ndim == 1 else y
        return y.squeeze(-1 if b.ndim == 1 else -2) if a.ndim == 1 else y

    def _convolved(self, x: Tensor, output_size: Any = None) -> Tensor:
        module: Any = self.module
        kind: Any = self.product.kind
        spatial = len(module.kernel_size)
        if output_size is not None:
            sizes = module.stride, module.padding, module.kernel_size, spatial, module.dilation
            kind = replace(kind, output_padding=tuple(module._output_padding(x, output_size, *sizes)))
        single = x.ndim == spatial + 1
        x = x[None] if single else x
        if self.padded:
            x = F.pad(x, self.padded, mode=self.padding_mode)
        y = self._multiplied(x, module.weight, module.bias, kind)
        return y[0] if single else y

    def _multiplied(self, x: Tensor, w: Tensor, bias: Tensor | None, kind: Kind | None = None) -> Tensor:
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            raise RuntimeError(
                "products with rounded operands do not work within torch.func (grad, vmap, jacrev): use "
                "torch.autograd.grad and a loop, or the handle's off()"
            )
        kinds = x.device.type
        dtype = torch.get_autocast_dtype(kinds) if torch.is_autocast_enabled(kinds) else None
        observing = self.root.training and self.switches.observing
        keys = self.product.next_keys(x.device, observing)
        observing = observing and bool(self.product.histories) and not again()
        return Multiply.apply(x, w, bias, self.product, kind or self.product.kind, keys, dtype, observing)


def kind_of(module: nn.Module, accumulate: Accumulate | None) -> Kind | None:
    """The kind of product that the module's forward is; None if it is none."""
    if isinstance(module, nn.Linear):
        return Linear(accumulate)
    if isinstance(module, MatMulModule):
        return MatMul(accumulate)
    if isinstance(module, Function):
        return Linear(accumulate) if module.function is F.linear else None
    if not isinstance(module, CONVOLUTIONS):
        return None
    padding: Any = module.padding
    if _padding(module)[0]:
        padding = (0,) * len(module.kernel_size)
    elif isinstance(padding, str):
        padding = tuple(module._reversed_padding_repeated_twice[::-2])
    return Convolution(
        module.stride, padding, module.dilation, isinstance(module, TRANSPOSED), module.output_padding, module.groups
    )


def _padding(module: nn.Module) -> tuple[Sequence[int], str]:
    """What `F.pad` is to do before a convolution, which pads zeros itself and on both sides alike."""
    if not isinstance(module, CONVOLUTIONS) or isinstance(module, TRANSPOSED):
        return (), "constant"
    pads = module._reversed_padding_repeated_twice
    if module.padding_mode != "zeros":
        return pads, module.padding_mode
    uneven = module.padding == "same" and pads[::2] != pads[1::2]
    return (pads if uneven else ()), "constant"


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], *names: str) -> list[Any]:
    """Arguments by position or by name; None for those that are left out."""
    if odd := sorted(set(kwargs) - set(names[len(args) :])):
        raise TypeError(f"forward() got an unexpected argument {odd[0]!r}")
    return [*args, *(kwargs.get(name) for name in names[len(args) :])]
