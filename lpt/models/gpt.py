"""A decoder-only Transformer in GPT-2's order (normalization before each part), every product, sum and gate a module.

N texts, T tokens, W width, D width of a head, V vocabulary. Products have no biases unless asked for, as GPT-2's own
weights need them: they stay in full precision.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..dataflow.ops import Add, Mul, ScaledDotProduct
from ..errors import UserError

NORMS = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}
EPSILON = 1e-5  # of both norms; nn.RMSNorm would take that of the dtype
BASE = 10000.0  # of the angles
POSITIONS = ("learned", "rotary")
Turns = tuple[Tensor, Tensor]  # cosine and sine of each position's angles, [T, D / 2]


def turns(length: int, width: int, like: Tensor) -> Turns:
    """Angles of `length` positions for heads of `width`: position * 10000^(-2 i / width) (Su et al. 2021, eq. 15).

    They are computed in float64 whenever they are needed, so that no cast of the model makes them coarser.
    """
    places = torch.arange(length, dtype=torch.float64, device=like.device)
    speeds = BASE ** (-torch.arange(0, width, 2, dtype=torch.float64, device=like.device) / width)
    angles = places[:, None] * speeds
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


class Rotary(nn.Module):
    """Turns the pair (x_i, x_(i + D/2)) of a query or key by its position's angle i (Su et al. 2021, section 3.2.2).

    The pairs are those of GPT-NeoX and Llama; the paper's, neighbours, are the same up to the order of a head's rows.
    """

    def forward(self, x: Tensor, turned: Turns) -> Tensor:
        """[N, heads, T, D] -> [N, heads, T, D]."""
        cos, sin = turned
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    """Causal self-attention: each token looks at itself and at what came before it."""

    def __init__(self, width: int, heads: int, dropout: float, rotary: bool, bias: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=bias) for _ in range(3))
        self.turn_query, self.turn_key = Rotary() if rotary else None, Rotary() if rotary else None
        self.attention = ScaledDotProduct(dropout)
        self.output = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor, turned: Turns | None) -> Tensor:
        """[N, T, W] -> [N, T, W]."""
        query, key, value = (self._split(part(x)) for part in (self.query, self.key, self.value))
        if self.turn_query is not None and self.turn_key is not None:
            query, key = self.turn_query(query, turned), self.turn_key(key, turned)
        return self.output(self.attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class GELU(nn.Module):
    """down(gelu(up(x))), with the exact GELU (Hendrycks and Gimpel 2016)."""

    approximate = "none"

    def __init__(self, width: int, feedforward: int, bias: bool = False) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, feedforward, bias=bias), nn.Linear(feedforward, width, bias=bias)
        self.gelu = nn.GELU(self.approximate)

    @staticmethod
    def usual(width: int) -> int:
        """The width inside if none is given: 4 W."""
        return 4 * width

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.gelu(self.up(x)))


class TanhGELU(GELU):
    """The same with the GELU as GPT-2 computes it, by a tanh (Hendrycks and Gimpel 2016, section 2)."""

    approximate = "tanh"


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, eq. 6)."""

    def __init__(self, width: int, feedforward: int, bias: bool = False) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, feedforward, bias=bias) for _ in range(2))
        self.down = nn.Linear(feedforward, width, bias=bias)
        self.silu, self.mul = nn.SiLU(), Mul()

    @staticmethod
    def usual(width: int) -> int:
        """The width inside if none is given: as many weights as with 4 W, 8/3 W, up to the next multiple of 32."""
        return math.ceil(8 * width / 3 / 32) * 32

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.mul(self.silu(self.gate(x)), self.up(x)))


MLPS: dict[str, type[GELU] | type[SwiGLU]] = {"gelu": GELU, "gelu_tanh": TanhGELU, "swiglu": SwiGLU}


class Block(nn.Module):
    """x + attention(norm1(x)), then + mlp(norm2(x)) (Radford et al. 2019, section 2.3)."""

    def __init__(self, width: int, attention: Attention, mlp: nn.Module, norm: str, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = NORMS[norm](width, eps=EPSILON), NORMS[norm](width, eps=EPSILON)
        self.attention, self.mlp = attention, mlp
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)
        self.add1, self.add2 = Add(), Add()

    def forward(self, x: Tensor, turned: Turns | None) -> Tensor:
        x = self.add1(x, self.dropout1(self.attention(self.norm1(x), turned)))
        return self.add2(x, self.dropout2(self.mlp(self.norm2(x))))


class GPT(nn.Module):
    """The language model. It remembers nothing from batch to batch: a text is what one batch shows of it.

    Weights begin as N(0, 0.02^2) (Radford et al. 2018, section 4.1), those whose products are added to the residual
    stream, two a layer, smaller by sqrt(2 layers) (Radford et al. 2019, section 2.3).

    Attributes:
        settings: the options that it was built with, by name.

    Args:
        vocabulary: number of tokens, V.
        layers, width, heads: the heads divide the width.
        context: most tokens of a text.
        feedforward: width inside each MLP; None: 4 width for gelu and gelu_tanh, about 8/3 width for swiglu (as many
            weights).
        norm: layer or rms.
        positions: learned (added to the embedding) or rotary.
        mlp: gelu, gelu_tanh (GPT-2's) or swiglu.
        dropout: on the embedding, on attention's weights, and on what each part adds.
        tied: the output projection's weight is the embedding's.
        bias: each product but the output projection adds one, as in GPT-2.

    Raises:
        UserError: numbers below 1, a width that the heads do not divide (rotary: into even parts), a dropout outside
            [0, 1), an unknown norm, positions or mlp.
    """

    def __init__(
        self,
        vocabulary: int,
        layers: int = 4,
        width: int = 128,
        heads: int = 4,
        context: int = 128,
        feedforward: int | None = None,
        norm: str = "layer",
        positions: str = "learned",
        mlp: str = "gelu",
        dropout: float = 0.0,
        tied: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        _check(dropout, heads, vocabulary=vocabulary, layers=layers, width=width, context=context,
               feedforward=1 if feedforward is None else feedforward)  # fmt: skip
        for name, got, known in (("norm", norm, NORMS), ("positions", positions, POSITIONS), ("mlp", mlp, MLPS)):
            if got not in known:
                raise UserError(f"model.{name}={got!r} is not one of {', '.join(known)}")
        rotary = positions == "rotary"
        if width % heads or (rotary and width // heads % 2):
            parts = f"{'an even' if rotary else 'a whole'} width for each of heads={heads}"
            raise UserError(f"model.width={width} must give {parts} (positions={positions}): change one of them")
        self.context, self.head_width = context, width // heads
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = None if rotary else nn.Parameter(torch.empty(context, width))
        self.add, self.dropout = None if rotary else Add(), nn.Dropout(dropout)
        inside = MLPS[mlp].usual(width) if feedforward is None else feedforward
        self.blocks = nn.ModuleList(
            Block(width, Attention(width, heads, dropout, rotary, bias), MLPS[mlp](width, inside, bias), norm, dropout)
            for _ in range(layers)
        )
        self.norm = NORMS[norm](width, eps=EPSILON)
        self.output = nn.Linear(width, vocabulary, bias=False)
        self._initialize(layers)
        if tied:
            self.output.weight = self.tokens.weight
        self.settings = {
            "vocabulary": vocabulary, "layers": layers, "width": width, "heads": heads, "context": context,
            "feedforward": inside, "norm": norm, "positions": positions, "mlp": mlp, "tied": tied, "bias": bias,
        }  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [N, T] -> scores [N, T, V] of the token that follows each.

        Raises:
            UserError: more tokens than `context`.
        """
        length = tokens.shape[1]
        if length > self.context:
            raise UserError(f"a text of {length} tokens; model.context={self.context}: raise it, or give shorter texts")
        x, turned = self.tokens(tokens), None
        if self.positions is not None and self.add is not None:
            x = self.add(x, self.positions[:length])
        else:
            turned = turns(length, self.head_width, x)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, turned)
        return self.output(self.norm(x))

    def _initialize(self, layers: int) -> None:
        for name, p in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(p)
            elif p.ndim > 1:
                adds = name.endswith(("attention.output.weight", "mlp.down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if adds else 0.02)


def _check(dropout: float, heads: int, **numbers: int) -> None:
    wrong = {name: n for name, n in {**numbers, "heads": heads}.items() if type(n) is not int or n < 1}
    if wrong:
        raise UserError(f"{', '.join(f'model.{n}={v!r}' for n, v in wrong.items())}: give whole numbers from 1 upward")
    if not 0 <= dropout < 1:
        raise UserError(f"model.dropout={dropout!r}: give a share from 0 to below 1")
