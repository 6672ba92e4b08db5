"""Weights of variance 1, and fixed factors in place of scales that are measured (unit scaling, arXiv 2303.11257).

    y = a (x w^T + b)     dx = c (e w)     dw = uses^(-1/2) e^T x          e = dL/dy

a = c = fan_in^(-1/2), so that with x and w of variance 1 so is y; `uses` is how often a batch uses an element of the
parameter. Factors stand around the product and not in it: whatever rounds its operands rounds x, w and e as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..weights.parameters import CONVOLUTION, TRANSPOSED, chosen, owner
from .multiplying import kind_of
from .ops import Function

_MARK = "unit_variance"
_NORMALIZED = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class UnitVariance:
    """A model's weights drawn anew from N(0, 1), its products and the gradients of all parameters given fixed factors.

    Products are Linear, convolutions, and `lpt.ops.Function(F.linear)`. Biases of products begin at 0, embeddings are
    drawn as well. Gradients of the parameters of products, normalizations and embeddings get uses^(-1/2).

    Args:
        readout: the last product has a = 1 / fan_in and c = fan_out^(-1/2).
        loss: its error is multiplied by n / sqrt(m - 1) m, of n outputs for each of m scores: that takes out the mean
            of a cross-entropy over n, and makes its gradient of variance 1 where all m are equally likely.
    """

    readout: bool = True
    loss: bool = True

    def attach_(self, model: nn.Module) -> None:
        """Draw the weights from torch's generator, and put the factors on by hooks; names and shapes stay.

        The state dict gets an entry `unit_variance`, so that weights of another model do not pass for these.

        Raises:
            ValueError: there is no product, the model has such weights already, or some have no home that is known.
        """
        products = {name: m for name, m in model.named_modules() if kind_of(m, None) and not _matrices(m)}
        if not products:
            raise ValueError("unit variance is for products, and this model has no Linear and no convolution")
        if hasattr(model, _MARK):
            raise ValueError("this model has weights of unit variance already")
        with torch.no_grad():
            for name, weight in chosen(model).items():
                _check_home(name, owner(model, name))
                weight.normal_()
            for name, p in model.named_parameters():
                if "bias" in name.rpartition(".")[2] and not isinstance(owner(model, name), _NORMALIZED):
                    p.zero_()
        weighted = [name for name, m in products.items() if getattr(m, "weight", None) is not None]
        last = [*getattr(model, "last_products", weighted[-1:])]
        for name, module in products.items():
            is_last = name in last
            _Around(True, self.readout and is_last, self.loss and is_last).attach_(module)
        for module in model.modules():
            if isinstance(module, (*_NORMALIZED, nn.Embedding)):
                _Around(False).attach_(module)
        model.register_buffer(_MARK, torch.tensor(1))


@dataclass(frozen=True)
class _Around:
    """What is done around the forward pass of one module: before it, and after it."""

    product: bool
    readout: bool = False
    loss: bool = False

    def attach_(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(_Before(self))
        module.register_forward_hook(self, always_call=True)

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if not torch.is_grad_enabled():
            return args
        cell: list[int] = []  # how many elements are returned, once that is known
        if isinstance(module, Function):
            x, w, *rest = args
            fan_in, fan_out = _fans(module, w)
            own = [_Backward.apply(p, _Uses(cell, fan_out)) if isinstance(p, Tensor) else p for p in (w, *rest)]
            args = (x, *own)
        else:
            fan_in, fan_out = _fans(module, module.weight) if self.product else (1, 0)
            for name, p in module._parameters.items():
                if p is not None and p.requires_grad:  # seen in the parameter's place until the pass is over
                    uses = _Uses(cell, fan_out if self.product else p.numel())
                    module.__dict__[name] = _Backward.apply(p, uses)
        module.__dict__["_lpt_cell"] = cell
        if self.product:
            factor = fan_out**-0.5 if self.readout else fan_in**-0.5
            args = (_Backward.apply(args[0], _Fixed(factor)), *args[1:])
        return args

    def __call__(self, module: nn.Module, args: tuple[Any, ...], y: Any) -> Any:
        """After the pass: the parameters stand in their places again, and what it returned has its factor."""
        for name in module._parameters:
            module.__dict__.pop(name, None)
        cell = module.__dict__.pop("_lpt_cell", None)
        if not isinstance(y, Tensor):
            return None
        if cell is not None:
            cell.append(y.numel())
        if not self.product:
            return None
        w = args[1] if isinstance(module, Function) else module.weight
        fan_in, fan_out = _fans(module, w)
        if self.loss and y.requires_grad:
            scores = max(2, fan_out)
            y = _Backward.apply(y, _Fixed(y.numel() / fan_out * scores / math.sqrt(scores - 1)))
        return _Forward.apply(y, 1 / fan_in if self.readout else fan_in**-0.5)


@dataclass(frozen=True)
class _Before:
    around: _Around

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.around.before(module, args)


@dataclass(frozen=True)
class _Fixed:
    value: float

    def __call__(self) -> float:
        return self.value


@dataclass(frozen=True)
class _Uses:
    """uses^(-1/2) of a parameter whose elements each serve one in `every` of what the module returned."""

    cell: list[int]
    every: int

    def __call__(self) -> float:
        return (self.cell[0] / self.every) ** -0.5


class _Forward(torch.autograd.Function):
    """Times a factor on the way forward alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        return x * factor

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return g, None


class _Backward(torch.autograd.Function):
    """Times a factor on the way back alone; it is asked for then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Any) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return g * ctx.factor(), None


def _fans(module: Any, w: Any) -> tuple[int, int]:
    """How many products each output sums up, and how many outputs there are for each position."""
    if isinstance(module, TRANSPOSED):
        return w.shape[0] // module.groups * math.prod(w.shape[2:]), w.shape[1] * module.groups
    return w[0].numel(), w.shape[0]


def _matrices(module: nn.Module) -> bool:
    """Whether it is a product without a weight."""
    return not isinstance(module, (nn.Linear, Function, *CONVOLUTION, *TRANSPOSED))


def _check_home(name: str, module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding, *CONVOLUTION, *TRANSPOSED)):
        return
    if not any(isinstance(child, Function) and child.function is F.linear for child in module.modules()):
        raise ValueError(
            f"{name!r} belongs to a {type(module).__name__}, and what that does with it is not known: unit variance is "
            "for Linear, convolutions, embeddings and lpt.ops.Function(F.linear)"
        )
