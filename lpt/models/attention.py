"""torch's attention and Transformer layers, spelled out: each projection, product, sum and activation a module.

They take over the parameters and submodules of torch's, under the same names, so that state dicts fit both ways.

N sentences, L queries, S keys, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dataflow.ops import Add, Function, ScaledDotProduct
from ..errors import UserError


class MultiheadAttention(nn.Module):
    """What `of` computes, without a fused kernel. Attention weights, where asked for, are those after the dropout.

    A query that may look at no key gets zeros for its values, as torch has it without `need_weights`.

    Args:
        of: with any of its options; used up.
    """

    in_proj_weight: Any
    in_proj_bias: Any
    bias_k: Any
    bias_v: Any

    def __init__(self, of: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.batch_first = of.embed_dim, of.num_heads, of.batch_first
        self._parameters.update(of._parameters)
        self.query, self.key, self.value = Function(F.linear), Function(F.linear), Function(F.linear)
        self.attention = ScaledDotProduct(of.dropout)
        self.out_proj = of.out_proj
        self.extended = of.bias_k is not None
        if self.extended:
            self.joined_keys, self.joined_values = Function(torch.cat), Function(torch.cat)
        self.add_zero_attn = of.add_zero_attn

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, key_padding_mask: Tensor | None = None,
        need_weights: bool = True, attn_mask: Tensor | None = None, average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """[N, L, W], twice [N, S, ...] -> [N, L, W], and weights [N, L, S], or [N, heads, L, S] if not averaged.

        [L, N, W] and so on without `batch_first`, and without N for one sentence. Masks as in torch: True, or -inf, is
        what is not looked at; `is_causal` is a hint that `attn_mask` is causal, which nothing here needs.

        Raises:
            UserError: a nested tensor, or `is_causal` without a mask.
        """
        if query.is_nested or key.is_nested:
            raise UserError(
                "attention that is spelled out takes no nested tensors: give nn.TransformerEncoder "
                "enable_nested_tensor=False"
            )
        if is_causal and attn_mask is None:
            raise UserError("is_causal only says that attn_mask is causal: give attn_mask, too")
        batched = query.ndim == 3
        first = 0 if self.batch_first or not batched else 1  # the dimension of N
        q, k, v = (x.transpose(0, first) if batched else x[None] for x in (query, key, value))
        q, k, v = self._projected(q, k, v)
        mask = self._mask(attn_mask, key_padding_mask, q, k)
        q, k, v = (x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        out, weights = self.attention.with_weights(q, k, v, mask)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        weights = weights.mean(1) if average_attn_weights else weights
        if not batched:
            return out[0], weights[0] if need_weights else None
        return out.transpose(0, first), weights if need_weights else None

    def _projected(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, L, ...] and twice [N, S, ...] -> [N, L, W] and twice [N, S, W], with what is added."""
        if self.in_proj_weight is None:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        else:
            weights = self.in_proj_weight.chunk(3)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        projections = self.query, self.key, self.value
        q, k, v = (p(x, w, b) for p, x, w, b in zip(projections, (q, k, v), weights, biases, strict=True))
        if self.extended:
            k = self.joined_keys([k, self.bias_k.expand(len(k), 1, -1)], 1)
            v = self.joined_values([v, self.bias_v.expand(len(v), 1, -1)], 1)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        return q, k, v

    def _mask(self, attn: Tensor | None, padding: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
        """Both masks as one that is added to the scores, or None; what was added to the keys is always looked at."""
        added = self.extended + self.add_zero_attn
        length, keys, found = q.shape[1], k.shape[1] - added, None
        if attn is not None:
            shape = (length, keys) if attn.ndim == 2 else (len(q) * self.num_heads, length, keys)
            _check("attn_mask", attn, shape)
            found = _added(attn, q) if attn.ndim == 2 else _added(attn, q).unflatten(0, (len(q), -1))
        if padding is not None:
            padding = padding[None] if padding.ndim == 1 else padding
            _check("key_padding_mask", padding, (len(q), keys))
            hidden = _added(padding, q)[:, None, None]
            found = hidden if found is None else found + hidden
        return found if found is None or not added else F.pad(found, (0, added))


def _check(name: str, mask: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(mask.shape) != shape:
        raise UserError(f"{name} has the shape {tuple(mask.shape)}, and this attention needs {shape}")


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """What is added to scores for this mask: -inf where it is True, or itself."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf)


class _Layer(nn.Module):
    """What torch's two layers have in common: their submodules, those inside spelled out, and an activation module."""

    self_attn: nn.Module
    multihead_attn: nn.Module
    linear1: nn.Module
    linear2: nn.Module
    norm1: nn.Module
    norm2: nn.Module
    norm3: nn.Module
    dropout: nn.Module
    dropout1: nn.Module
    dropout2: nn.Module
    dropout3: nn.Module
    activation: nn.Module

    def __init__(self, of: Any) -> None:
        super().__init__()
        for name, child in of.named_children():
            self.add_module(name, spelled(child) or child)
        self.norm_first = of.norm_first
        if not isinstance(of.activation, nn.Module):
            known = {F.relu: nn.ReLU(), F.gelu: nn.GELU()}
            self.activation = known.get(of.activation) or Function(of.activation)

    def _feed(self, x: Tensor, dropout: nn.Module) -> Tensor:
        found: Tensor = dropout(self.linear2(self.dropout(self.activation(self.linear1(x)))))
        return found

    def _block(self, x: Tensor, norm: nn.Module, add: nn.Module, of: Any) -> Tensor:
        """x + of(norm(x)) or norm(x + of(x))."""
        found: Tensor = add(x, of(norm(x))) if self.norm_first else norm(add(x, of(x)))
        return found


class EncoderLayer(_Layer):
    """What an `nn.TransformerEncoderLayer` computes."""

    def __init__(self, of: nn.TransformerEncoderLayer) -> None:
        super().__init__(of)
        self.add1, self.add2 = Add(), Add()

    def forward(
        self, src: Tensor, src_mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        def attended(x: Tensor) -> Any:
            options = {"attn_mask": src_mask, "key_padding_mask": src_key_padding_mask, "is_causal": is_causal}
            return self.dropout1(self.self_attn(x, x, x, need_weights=False, **options)[0])

        x = self._block(src, self.norm1, self.add1, attended)
        return self._block(x, self.norm2, self.add2, lambda y: self._feed(y, self.dropout2))


class DecoderLayer(_Layer):
    """What an `nn.TransformerDecoderLayer` computes."""

    def __init__(self, of: nn.TransformerDecoderLayer) -> None:
        super().__init__(of)
        self.add1, self.add2, self.add3 = Add(), Add(), Add()

    def forward(
        self, tgt: Tensor, memory: Tensor, tgt_mask: Tensor | None = None, memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None, memory_key_padding_mask: Tensor | None = None,
        tgt_is_causal: bool = False, memory_is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        own = {"attn_mask": tgt_mask, "key_padding_mask": tgt_key_padding_mask, "is_causal": tgt_is_causal}
        other = {"attn_mask": memory_mask, "key_padding_mask": memory_key_padding_mask, "is_causal": memory_is_causal}

        def attended(x: Tensor) -> Any:
            return self.dropout1(self.self_attn(x, x, x, need_weights=False, **own)[0])

        def looked(x: Tensor) -> Any:
            return self.dropout2(self.multihead_attn(x, memory, memory, need_weights=False, **other)[0])

        x = self._block(tgt, self.norm1, self.add1, attended)
        x = self._block(x, self.norm2, self.add2, looked)
        return self._block(x, self.norm3, self.add3, lambda y: self._feed(y, self.dropout3))


class Encoder(nn.Module):
    """What an `nn.TransformerEncoder` computes, without nested tensors."""

    def __init__(self, of: nn.TransformerEncoder) -> None:
        super().__init__()
        self.layers = nn.ModuleList(spelled(layer) or layer for layer in of.layers)
        self.norm = of.norm

    def forward(
        self, src: Tensor, mask: Tensor | None = None, src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:  # fmt: skip
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        return src if self.norm is None else self.norm(src)


SPELLED: dict[type, Any] = {
    nn.MultiheadAttention: MultiheadAttention,
    nn.TransformerEncoderLayer: EncoderLayer,
    nn.TransformerDecoderLayer: DecoderLayer,
    nn.TransformerEncoder: Encoder,
}


def spelled(module: nn.Module) -> nn.Module | None:
    """`module` spelled out; None if it is none of torch's own attention and layers, or if hooks hang on it."""
    kind = SPELLED.get(type(module))
    if kind is None or module._forward_hooks or module._forward_pre_hooks:
        return None
    found: nn.Module = kind(module)
    return found.train(module.training)


def spelled_parts(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Module]]:
    """The parts of `module`, the largest ones, that can be spelled out: their paths, and what takes their places."""
    if (found := spelled(module)) is not None:
        yield path, found
        return
    for name, child in module.named_children():
        yield from spelled_parts(child, f"{path}.{name}".lstrip("."))
