"""Arithmetic as modules, so that a forward hook can see its result.

A hook sees what modules return and nothing else. `a + b` in the middle of a `forward` therefore stays invisible to
quantization; `self.add(a, b)` does not. Models write their residual sums, gates and attention products with these.
They hold no state and no parameters; give each place an instance of its own all the same, since a quantizer's scale
belongs to one place.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Add(nn.Module):
    """The sum of two tensors of broadcastable shapes: a residual sum."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Mul(nn.Module):
    """The elementwise product of two tensors of broadcastable shapes: a gate, a layer scale."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


class MatMul(nn.Module):
    """The matrix product of (..., n, k) and (..., k, m): attention's scores and its weighted sum of values."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


class Function(nn.Module):
    """Any other function of tensors, for example `F.gelu`; a string means the method of that name of the first one."""

    def __init__(self, function: Callable[..., Any] | str) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.function, str):
            return getattr(args[0], self.function)(*args[1:], **kwargs)
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        return self.function if isinstance(self.function, str) else self.function.__name__


class ScaledDotProduct(nn.Module):
    """Attention in its plain form, each product a module: softmax(q k^T scale + mask) v (Vaswani et al. 2017, eq. 1).

    Takes what `F.scaled_dot_product_attention` takes, except for the dropout, which follows train() and eval() here. A
    query that may look at no key gets zeros, as there.
    """

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.scores = MatMul()
        self.scale = Function(operator.mul)
        self.softmax = nn.Softmax(dim=-1)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.values = MatMul()

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """(..., heads, l, d), (..., heads, s, d), (..., heads, s, e) -> (..., heads, l, e)."""
        if enable_gqa:
            groups = query.shape[-3] // key.shape[-3]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        if is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        return self.with_weights(query, key, value, attn_mask, scale)[0]

    def with_weights(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, scale: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """`forward` of as many heads of each, and the weights that the values were multiplied with: (..., l, s)."""
        scores = self.scores(query, key.transpose(-2, -1))
        scores = self.scale(scores, query.shape[-1] ** -0.5 if scale is None else scale)
        blind = None
        if attn_mask is not None:
            boolean = attn_mask.dtype == torch.bool
            hidden = ~attn_mask if boolean else attn_mask == -torch.inf
            blind = hidden.all(-1, keepdim=True)  # which would have nan for its softmax
            if boolean:
                scores = scores.masked_fill(hidden & ~blind, -torch.inf)
            else:
                scores = scores + attn_mask.masked_fill(blind, 0.0)
        weights = self.dropout(self.softmax(scores))
        values = self.values(weights, value)
        return (values, weights) if blind is None else (values.masked_fill(blind, 0.0), weights.masked_fill(blind, 0.0))
