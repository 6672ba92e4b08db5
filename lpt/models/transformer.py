"""The encoder-decoder Transformer (Vaswani et al. 2017), every product, sum and scaling of it a module.

N sentences, S source tokens, T target tokens, W width, V vocabulary. Masks are True where a token may be looked at.
"""

from __future__ import annotations

import math
import operator
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dataflow.ops import Add, Function, ScaledDotProduct
from ..errors import UserError

Cache = dict[str, Tensor]  # the keys and values that an attention has computed before


class Attention(nn.Module):
    """What `nn.MultiheadAttention` computes, with its parameters under its names, so that its state dict loads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.query, self.key, self.value = Function(F.linear), Function(F.linear), Function(F.linear)
        self.attention = ScaledDotProduct(dropout)
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """[N, T, W] that looks at [N, S, W]; mask [N or 1, 1, T or 1, S] -> [N, T, W]."""
        return self.look(x, *self.keys_and_values(memory), mask)

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """[N, S, W] -> twice [N, heads, S, W / heads]."""
        _, weight_k, weight_v = self.in_proj_weight.chunk(3)
        _, bias_k, bias_v = self.in_proj_bias.chunk(3)
        return self._split(self.key(memory, weight_k, bias_k)), self._split(self.value(memory, weight_v, bias_v))

    def look(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """`forward`, the keys and values given."""
        query = self._split(self.query(x, self.in_proj_weight.chunk(3)[0], self.in_proj_bias.chunk(3)[0]))
        return self.out_proj(self.attention(query, keys, values, mask).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class EncoderLayer(nn.Module):
    """What `nn.TransformerEncoderLayer` computes (normalization behind each sum, ReLU), under its names."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.add1, self.add2 = Add(), Add()
        self.relu = nn.ReLU()
        self.dropout, self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.norm1(self.add1(x, self.dropout1(self.self_attn(x, x, mask))))
        y = self.linear2(self.dropout(self.relu(self.linear1(x))))
        return self.norm2(self.add2(x, self.dropout2(y)))


class DecoderLayer(nn.Module):
    """What `nn.TransformerDecoderLayer` computes (normalization behind each sum, ReLU), under its names."""

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn, self.multihead_attn = Attention(width, heads, dropout), Attention(width, heads, dropout)
        self.linear1, self.linear2 = nn.Linear(width, feedforward), nn.Linear(feedforward, width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.add1, self.add2, self.add3 = Add(), Add(), Add()
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.dropout1, self.dropout2, self.dropout3 = nn.Dropout(dropout), nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor | None, memory_mask: Tensor | None, cache: Cache | None = None
    ) -> Tensor:
        """With a cache, x holds the newest tokens alone, and the cache what came of the earlier ones."""
        keys, values = self.self_attn.keys_and_values(x)
        if cache is None:
            seen = self.multihead_attn.keys_and_values(memory)
        else:
            if "keys" in cache:
                keys, values = torch.cat([cache["keys"], keys], 2), torch.cat([cache["values"], values], 2)
            else:
                cache["seen keys"], cache["seen values"] = self.multihead_attn.keys_and_values(memory)
            cache["keys"], cache["values"] = keys, values
            seen = cache["seen keys"], cache["seen values"]
        x = self.norm1(self.add1(x, self.dropout1(self.self_attn.look(x, keys, values, mask))))
        x = self.norm2(self.add2(x, self.dropout2(self.multihead_attn.look(x, *seen, memory_mask))))
        y = self.linear2(self.dropout(self.relu(self.linear1(x))))
        return self.norm3(self.add3(x, self.dropout3(y)))


class Encoder(nn.Module):
    """Layers and a last normalization, as in `nn.Transformer`."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[N, S, W], mask as in `Attention` -> [N, S, W]."""
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


class Decoder(nn.Module):
    """Layers and a last normalization, as in `nn.Transformer`."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feedforward, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        caches: list[Cache] | None = None,
    ) -> Tensor:
        """[N, T, W] that looks at [N, S, W], masks as in `Attention`, a cache for each layer -> [N, T, W]."""
        for layer, cache in zip(self.layers, caches or repeat(None), strict=False):
            x = layer(x, memory, mask, memory_mask, cache)
        return self.norm(x)


class Embedding(nn.Module):
    """Tokens [N, T] -> [N, T, W]: embedding times sqrt(W), plus sinusoids of the position (section 3.5)."""

    positions: Tensor

    def __init__(self, vocabulary: int, width: int, pad: int, longest: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=pad)
        self.scale, self.add, self.dropout = Function(operator.mul), Add(), nn.Dropout(dropout)
        self.register_buffer("positions", sinusoids(longest, width), persistent=False)
        nn.init.normal_(self.tokens.weight, std=width**-0.5)
        with torch.no_grad():
            self.tokens.weight[pad].zero_()

    def forward(self, tokens: Tensor, start: int = 0) -> Tensor:
        end = start + tokens.shape[1]
        if end > len(self.positions):
            raise UserError(f"a sentence of {end} tokens; model.longest={len(self.positions)}: raise it")
        x = self.scale(self.tokens(tokens), math.sqrt(self.tokens.embedding_dim))
        return self.dropout(self.add(x, self.positions[start:end]))


class Transformer(nn.Module):
    """The translation model. `encoder` and `decoder` take the state dict of an `nn.Transformer`.

    Args:
        vocabulary: number of tokens, V, of both languages together.
        pad: the token that fills up short sentences.
        width: of the embedding and of every layer.
        layers: of the encoder, and of the decoder.
        heads: of each attention; they divide the width.
        feedforward: width between the two linear layers of a block.
        dropout: on embeddings, attention weights and what each block adds.
        longest: most tokens of a sentence.
        tied: "target", the output projection's weight is the target embedding's; "all", the source embedding's too;
            "none".

    Raises:
        UserError: numbers below 1, an odd width or one that the heads do not divide, a dropout outside [0, 1),
            another `tied`.
    """

    def __init__(
        self,
        vocabulary: int,
        pad: int,
        width: int = 512,
        layers: int = 6,
        heads: int = 4,
        feedforward: int = 1024,
        dropout: float = 0.3,
        longest: int = 1024,
        tied: str = "target",
    ) -> None:
        super().__init__()
        numbers = {"vocabulary": vocabulary, "width": width, "layers": layers, "heads": heads}
        numbers |= {"feedforward": feedforward, "longest": longest}
        if small := [f"{name}={value}" for name, value in numbers.items() if value < 1]:
            raise UserError(f"{', '.join(small)}: must be at least 1")
        if width % heads or width % 2 or not 0 <= dropout < 1:
            raise UserError(
                f"width={width} must be even and a multiple of heads={heads}, dropout={dropout} at least 0 and below 1"
            )
        if tied not in ("target", "all", "none"):
            raise UserError(f"tied={tied!r} is not one of target, all, none")
        self.pad = pad
        self.source = Embedding(vocabulary, width, pad, longest, dropout)
        self.target = Embedding(vocabulary, width, pad, longest, dropout)
        self.encoder = Encoder(layers, width, heads, feedforward, dropout)
        self.decoder = Decoder(layers, width, heads, feedforward, dropout)
        self.output = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.output.weight, std=width**-0.5)
        for name, p in [*self.encoder.named_parameters(), *self.decoder.named_parameters()]:
            if p.ndim > 1:
                nn.init.xavier_uniform_(p)
            elif "linear" in name:
                nn.init.zeros_(p)
        if tied != "none":
            self.output.weight = self.target.tokens.weight
        if tied == "all":
            self.source.tokens.weight = self.target.tokens.weight

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Tokens [N, S] and [N, T] -> scores [N, T, V] of the token that follows each target token."""
        memory, memory_mask = self.encode(source)
        length = target.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=target.device).tril()
        return self.output(self.decoder(self.target(target), memory, causal, memory_mask))

    def encode(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [N, S] -> [N, S, W] and the mask of what is not padding, [N, 1, 1, S]."""
        mask = (source != self.pad)[:, None, None]
        return self.encoder(self.source(source), mask), mask

    def following(
        self, tokens: Tensor, position: int, memory: Tensor, memory_mask: Tensor, caches: list[Cache]
    ) -> Tensor:
        """Scores [N, V] of what follows the tokens [N] at `position`; caches, {} at first, hold what came before."""
        x = self.target(tokens[:, None], position)
        return self.output(self.decoder(x, memory, None, memory_mask, caches))[:, 0]


def sinusoids(length: int, width: int) -> Tensor:
    """[length, width]: sin(p / 10000^(2i / width)) and its cosine in turn (section 3.5)."""
    angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
