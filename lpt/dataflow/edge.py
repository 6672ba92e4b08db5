"""An Edge: what stands behind every module that makes new values, and which modules those are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .quantizer import Mode, Quantizer

# Modules whose output is a product of their input and their weight.
PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Modules that return values of their input and so stay on its grid. Everything else that computes gets an Edge.
KEEPS_GRID = (
    nn.Identity, nn.ReLU, nn.Flatten, nn.Unflatten, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ChannelShuffle,
    nn.PixelShuffle, nn.PixelUnshuffle, nn.UpsamplingNearest2d,
)  # fmt: skip
# Modules whose products happen inside one fused call, where no Edge can reach.
HIDES_PRODUCTS = (nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.Bilinear)


class _Quantize(torch.autograd.Function):
    """The identity that rounds: A forward, E backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, edge: Edge, training: bool) -> Tensor:
        ctx.edge, ctx.training = edge, training
        return x.clone() if edge.activation is None else edge.activation(x, training)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        edge = ctx.edge
        return (grad if edge.error is None else edge.error(grad, ctx.training)), None, None


class Edge:
    """The forward hook behind one module: quantizes its output's values (A) and their gradients (E)."""

    def __init__(self, root: nn.Module, mode: Mode, activation: Quantizer | None, error: Quantizer | None) -> None:
        self.root = root
        self.mode = mode
        self.activation = activation
        self.error = error

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self.quantize(output)

    def quantize(self, value: Any) -> Any:
        """`value`, or the tensors within it if it is a tuple, list or dict."""
        if isinstance(value, Tensor):
            if not self.mode.on or not value.is_floating_point():
                return value
            return _Quantize.apply(value, self, self.root.training)
        if isinstance(value, dict):
            return {key: self.quantize(v) for key, v in value.items()}
        if isinstance(value, (tuple, list)):
            items = [self.quantize(v) for v in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        return value

    def quantizers(self) -> dict[str, Quantizer]:
        both = {"activation": self.activation, "error": self.error}
        return {kind: q for kind, q in both.items() if q is not None}


class InputEdge(Edge):
    """The forward pre-hook on the whole model: quantizes what enters it."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any = None) -> Any:  # type: ignore[override]
        return self.quantize(args), self.quantize(kwargs)


def why_no_edge(module: nn.Module) -> str:
    """Why there is no Edge behind `module` itself; "" if there is one, or if it is only a container."""
    if isinstance(module, HIDES_PRODUCTS):
        return "its products are inside one fused call; use a model that spells them out"
    empty = isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) and not any(module.children())
    nearest = isinstance(module, nn.Upsample) and module.mode == "nearest"
    return "keeps its input's values" if empty or nearest or isinstance(module, KEEPS_GRID) else ""
