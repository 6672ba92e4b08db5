"""The kinds of products: how their operands lie, along which dimension each slot sums, and the three multiplications.

An operand is *arranged* to be rounded: what may be summed over is a dimension of its own, of one group.

    Linear        x (tokens, in), w (out, in), e (tokens, out)
    MatMul        x (..., n, k), w (..., k, m), e (..., n, m)
    Convolution   x (batch, groups, pixels, in), w (pixels, groups, out, in), e (batch, groups, pixels, out)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..formats.operators import define
from .laying import Lay
from .slots import Accumulate

_convolution = torch.ops.aten.convolution
_convolution_backward = torch.ops.aten.convolution_backward


class Kind(Protocol):
    """One kind of product.

    Attributes:
        dims: slot -> the dimension of its arranged operand that blocks run along.
        over: slot -> the same in the operand's lay (`laying`), in which nothing has to be moved.
    """

    @property
    def dims(self) -> dict[str, int]: ...

    @property
    def over(self) -> dict[str, str]: ...

    def lay(self, operand: str, t: Tensor) -> Lay:
        """How operand "x", "w" or "e" lies, if it is contiguous."""
        ...

    def arranged(self, operand: str, t: Tensor) -> Tensor:
        """A view of operand "x", "w" or "e"."""
        ...

    def restored(self, operand: str, t: Tensor, like: Tensor) -> Tensor:
        """An arranged operand in the shape of `like`."""
        ...

    def forward(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor: ...

    def dgrad(self, e: Tensor, w: Tensor, x: Sequence[int]) -> Tensor:
        """The gradient of x, whose shape is given."""
        ...

    def wgrad(self, e: Tensor, x: Tensor, w: Sequence[int]) -> Tensor:
        """The gradient of w, whose shape is given."""
        ...

    def bias_grad(self, e: Tensor) -> Tensor: ...


def multiplied(a: Tensor, b: Tensor, accumulate: Accumulate | None) -> Tensor:
    """a b of (..., n, k) and (..., k, m), summed over k as `accumulate` says."""
    if accumulate is None or not a.shape[-1]:
        return a @ b
    grid: Any = accumulate.format
    parts = zip(a.split(accumulate.every, -1), b.split(accumulate.every, -2), strict=True)
    sums = (left @ right for left, right in parts)
    total = grid.round(next(sums))
    for part in sums:
        total = grid.round(total + part)
    return total


@dataclass(frozen=True)
class Linear:
    """y = x w^T + bias."""

    accumulate: Accumulate | None = None

    dims = {"x": -1, "w": -1, "dgrad_e": -1, "dgrad_w": -2, "wgrad_e": -2, "wgrad_x": -2}  # noqa: RUF012
    over = {"x": "q", "w": "q", "dgrad_e": "q", "dgrad_w": "p", "wgrad_e": "p", "wgrad_x": "p"}  # noqa: RUF012

    def lay(self, operand: str, t: Tensor) -> Lay:
        return Lay(1, math.prod(t.shape[:-1]), t.shape[-1])

    def arranged(self, operand: str, t: Tensor) -> Tensor:
        return t if operand == "w" else t.reshape(-1, t.shape[-1])

    def restored(self, operand: str, t: Tensor, like: Tensor) -> Tensor:
        return t.reshape(like.shape)

    def forward(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        if self.accumulate is None:
            return F.linear(x, w, bias)
        y = multiplied(x, w.t(), self.accumulate)
        return y if bias is None else y + bias

    def dgrad(self, e: Tensor, w: Tensor, x: Sequence[int]) -> Tensor:
        return multiplied(e.reshape(-1, e.shape[-1]), w, self.accumulate).view(x)

    def wgrad(self, e: Tensor, x: Tensor, w: Sequence[int]) -> Tensor:
        return multiplied(e.reshape(-1, e.shape[-1]).t(), x.reshape(-1, x.shape[-1]), self.accumulate)

    def bias_grad(self, e: Tensor) -> Tensor:
        return e.reshape(-1, e.shape[-1]).sum(0)


@dataclass(frozen=True)
class MatMul:
    """y = x w of (..., n, k) and (..., k, m); of dimensions that are broadcast, the gradient is summed."""

    accumulate: Accumulate | None = None

    dims = {"x": -1, "w": -2, "dgrad_e": -1, "dgrad_w": -1, "wgrad_e": -2, "wgrad_x": -2}  # noqa: RUF012
    over = {"x": "q", "w": "p", "dgrad_e": "q", "dgrad_w": "q", "wgrad_e": "p", "wgrad_x": "p"}  # noqa: RUF012

    def lay(self, operand: str, t: Tensor) -> Lay:
        return Lay(math.prod(t.shape[:-2]), *t.shape[-2:])

    def arranged(self, operand: str, t: Tensor) -> Tensor:
        return t

    def restored(self, operand: str, t: Tensor, like: Tensor) -> Tensor:
        return t

    def forward(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        return multiplied(x, w, self.accumulate)

    def dgrad(self, e: Tensor, w: Tensor, x: Sequence[int]) -> Tensor:
        return multiplied(e, w.transpose(-2, -1), self.accumulate).sum_to_size(x)

    def wgrad(self, e: Tensor, x: Tensor, w: Sequence[int]) -> Tensor:
        return multiplied(x.transpose(-2, -1), e, self.accumulate).sum_to_size(w)

    def bias_grad(self, e: Tensor) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Convolution:
    """A convolution of any number of dimensions, or a transposed one, as `aten::convolution` takes it.

    Blocks run along the channels at each pixel, of one group, and in the gradient of w along the batch.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    dims = {"x": -1, "w": -1, "dgrad_e": -1, "dgrad_w": -2, "wgrad_e": 0, "wgrad_x": 0}  # noqa: RUF012

    @property
    def over(self) -> dict[str, str]:
        w = {"w": "p", "dgrad_w": "q"} if self.transposed else {"w": "q", "dgrad_w": "p"}
        return {"x": "p", "dgrad_e": "p", "wgrad_e": "batch_p", "wgrad_x": "batch_p", **w}

    def lay(self, operand: str, t: Tensor) -> Lay:
        if operand == "w":  # of a transposed one it is (in, out / groups, pixels)
            return Lay(self.groups, t.shape[0] // self.groups, t.shape[1], math.prod(t.shape[2:]))
        batch, channels = t.shape[:2]
        return Lay(batch * self.groups, channels // self.groups, math.prod(t.shape[2:]), batch=batch)

    @property
    def _options(self) -> tuple[object, ...]:
        place = [*self.stride], [*self.padding], [*self.dilation]
        return (*place, self.transposed, [*self.output_padding], self.groups)

    def arranged(self, operand: str, t: Tensor) -> Tensor:
        if operand != "w":
            return t.unflatten(1, (self.groups, -1)).flatten(3).movedim(2, 3)
        t = t.unflatten(0, (self.groups, -1)).flatten(3).movedim(3, 0)
        return t.transpose(-2, -1) if self.transposed else t  # of a transposed one it is (in, out / groups, pixels)

    def restored(self, operand: str, t: Tensor, like: Tensor) -> Tensor:
        if operand != "w":
            return t.movedim(3, 2).reshape(like.shape)
        t = t.transpose(-2, -1) if self.transposed else t
        return t.movedim(0, 3).reshape(like.shape)

    def forward(self, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
        return _convolution(x, w, bias, *self._options)

    def dgrad(self, e: Tensor, w: Tensor, x: Sequence[int]) -> Tensor:
        return _convolution_backward(e, _unread(e, x), w, None, *self._options, [True, False, False])[0]

    def wgrad(self, e: Tensor, x: Tensor, w: Sequence[int]) -> Tensor:
        return _convolution_backward(e, x, _unread(x, w), None, *self._options, [False, True, False])[1]

    def bias_grad(self, e: Tensor) -> Tensor:
        return e.sum([0, *range(2, e.ndim)])


def _unread(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Of this shape, lying as `like` does: what a gradient asks for and does not read; a view would be copied."""
    if torch.compiler.is_compiling() and like.device.type == "cpu":
        made: Tensor = torch.ops.lpt.unread(like, shape)  # which sees how it lies when the graph runs
        return made
    return _empty(like, shape)


def _empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    if like.ndim == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last):
        return torch.empty(*shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
    return like.new_empty(*shape)


define("unread", "(Tensor like, SymInt[] shape) -> Tensor", _empty, _empty)
