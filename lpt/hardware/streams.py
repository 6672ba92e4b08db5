"""Real operands for a unit: what the products of a trained model multiply, dot product by dot product.

    A x W   forward: inputs of a layer and its weights, along the input features
    E x A   weight gradient: errors and inputs, along batch and place
    E x W   errors handed back: errors and weights, along the output features; convolutions with stride 1 alone

A layer gives `STREAMS` dot products of each kind, drawn at random, as `Stream`s of one length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KINDS = ("A x W", "E x A", "E x W")
STREAMS = 64
LONGEST, MULTIPLE = 256, 32  # products of a stream; a multiple of the largest block


@dataclass(frozen=True)
class Stream:
    """Dot products of one layer.

    Attributes:
        kind: of `KINDS`; `x` and `y` are its operands in that order.
        x, y: float32 [STREAMS, K].
        x_top, y_top: the largest absolute value of the whole tensor, which its scale is taken from.
    """

    kind: str
    x: Tensor
    y: Tensor
    x_top: float
    y_top: float


def collect(model: nn.Module, loss: Callable[[], Tensor], seed: int = 0) -> list[Stream]:
    """The streams of one way forward and back; linear layers and convolutions without groups and dilation.

    Args:
        model: as it is to be measured, in evaluation mode or not.
        loss: computes a batch's loss by way of `model`.
    """
    seen: list[tuple[nn.Module, Tensor, list[Tensor]]] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        errors: list[Tensor] = []
        if output.requires_grad:
            output.register_hook(errors.append)
            seen.append((module, args[0].detach(), errors))

    chosen = [module for module in model.modules() if isinstance(module, nn.Linear) or _plain(module)]
    handles = [module.register_forward_hook(hook) for module in chosen]
    try:
        with torch.enable_grad():
            loss().backward()
    finally:
        for handle in handles:
            handle.remove()
    model.zero_grad()
    draw = torch.Generator().manual_seed(seed)
    return [stream for module, x, errors in seen if errors for stream in _of(module, x, errors[0], draw)]


def _plain(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.groups == 1
        and set(module.dilation) == {1}
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def _of(module: Any, x: Tensor, e: Tensor, draw: torch.Generator) -> Iterator[Stream]:
    weight = module.weight.detach()
    tops = {"A": x.abs().max().item(), "E": e.abs().max().item(), "W": weight.abs().max().item()}
    for kind, rows, columns in _matrices(module, x.float().cpu(), e.float().cpu(), weight.float().cpu()):
        k = min(rows.shape[1], LONGEST) // MULTIPLE * MULTIPLE
        if k:
            some, others = (torch.randint(len(m), (STREAMS,), generator=draw) for m in (rows, columns))
            first, _, last = kind.split()
            yield Stream(kind, rows[some, :k], columns[others, :k], tops[first], tops[last])


def _matrices(module: Any, x: Tensor, e: Tensor, w: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """For each product the two matrices of which rows are multiplied with rows."""
    if isinstance(module, nn.Linear):
        x, e = x.reshape(-1, x.shape[-1]), e.reshape(-1, e.shape[-1])
        back = (e, w.T)
    else:
        kernel, padding, stride = module.kernel_size, module.padding, module.stride
        outer = tuple(k - 1 - p for k, p in zip(kernel, padding, strict=True))
        back = None
        if set(stride) == {1} and min(outer) >= 0:
            turned = w.flip(2, 3).transpose(0, 1).reshape(w.shape[1], -1)
            back = (_rows(F.unfold(e, kernel, padding=outer)), turned)
        x, w = _rows(F.unfold(x, kernel, padding=padding, stride=stride)), w.reshape(len(w), -1)
        e = _rows(e.flatten(2))
    yield "A x W", x, w
    yield "E x A", e.T, x.T
    if back:
        yield "E x W", *back


def _rows(x: Tensor) -> Tensor:
    """[batch, features, places] to [batch * places, features]."""
    return x.transpose(1, 2).reshape(-1, x.shape[1])
