"""An LSTM whose products, sums and gates are modules, and the language model that is made of it.

T steps, N sequences, I inputs, H cells, V words. Gates lie in nn.LSTM's order: input, forget, cell, output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..dataflow.ops import Add, Function, Mul
from ..errors import UserError


@dataclass(frozen=True)
class State:
    """What an LSTM hands on from one part of a text to the next: h and c, [N, H] for each layer.

    It is no tuple on purpose: what enters a network as tensors is rounded once more, and h is on its grid already.
    """

    h: tuple[Tensor, ...]
    c: tuple[Tensor, ...]

    def detach(self) -> State:
        """The same values, cut off from the graph: here truncated back-propagation ends."""
        return State(tuple(h.detach() for h in self.h), tuple(c.detach() for c in self.c))

    def parts(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """What `State(*parts)` is made of again, for a checkpoint."""
        return self.h, self.c


class Gates(nn.Module):
    """Sigmoid of the input, forget and output gates, tanh of the cell's input: [N, 4 H] -> [N, 4 H]."""

    def forward(self, sums: Tensor) -> Tensor:
        width = sums.shape[-1] // 4
        both, cell, output = sums.split([2 * width, width, width], -1)
        return torch.cat([both.sigmoid(), cell.tanh(), output.sigmoid()], -1)


class LSTMLayer(nn.Module):
    """The operations of one layer; its weights are its owner's. Each module serves every step, with one scale.

    The products with the inputs are one product for all steps, which gives the same values as one a step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.from_input, self.from_hidden = Function(F.linear), Function(F.linear)
        self.sum, self.gates = Add(), Gates()
        self.forget, self.write, self.cell = Mul(), Mul(), Add()
        self.tanh, self.output = nn.Tanh(), Mul()

    def forward(
        self, x: Tensor, h: Tensor, c: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[T, N, I], [N, H], [N, H] -> [T, N, H], and the last h and c."""
        outputs = []
        for from_input in self.from_input(x, weight_ih, bias_ih).unbind():
            sums = self.sum(from_input, self.from_hidden(h, weight_hh, bias_hh))
            write, forget, new, output = self.gates(sums).chunk(4, -1)
            c = self.cell(self.forget(forget, c), self.write(write, new))
            h = self.output(output, self.tanh(c))
            outputs.append(h)
        return torch.stack(outputs), h, c


class LSTM(nn.Module):
    """What `nn.LSTM` computes, with its parameters under its names, so that its state dict loads.

    Args:
        input_size, hidden_size, num_layers: as of `nn.LSTM`.
        dropout: on the output of each layer, the last one too (`nn.LSTM` leaves that to its caller).
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        bound = 1 / math.sqrt(hidden_size)
        for k in range(num_layers):
            shapes = {"weight_ih": (input_size if k == 0 else hidden_size,), "weight_hh": (hidden_size,)}
            for name, more in {**shapes, "bias_ih": (), "bias_hh": ()}.items():
                values = torch.empty(4 * hidden_size, *more).uniform_(-bound, bound)
                self.register_parameter(f"{name}_l{k}", nn.Parameter(values))
        self.layers = nn.ModuleList(LSTMLayer() for _ in range(num_layers))
        self.dropouts = nn.ModuleList(nn.Dropout(dropout) for _ in range(num_layers))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """[T, N, input_size] and the state before it (zeros if None) -> [T, N, hidden_size] and the state after it."""
        if state is None:
            zeros = (x.new_zeros(x.shape[1], self.hidden_size),) * len(self.layers)
            state = State(zeros, zeros)
        after = []
        for k, (layer, dropout) in enumerate(zip(self.layers, self.dropouts, strict=True)):
            weights = [getattr(self, f"{name}_l{k}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            x, h, c = layer(x, state.h[k], state.c[k], *weights)
            x = dropout(x)
            after.append((h, c))
        return x, State(*zip(*after, strict=True))


class LSTMLanguageModel(nn.Module):
    """Embedding, LSTM, projection to the vocabulary: Zaremba et al. 2014, with tied weights (Press and Wolf 2017).

    Args:
        vocabulary: number of words, V.
        width: of the embedding and of each layer, H.
        layers: of the LSTM.
        dropout: on the embedding and on the output of each layer.
        tied: the projection's weight is the embedding's.

    Raises:
        UserError: numbers below 1, or a dropout outside [0, 1).
    """

    state = State  # what it hands on

    def __init__(
        self, vocabulary: int, width: int = 650, layers: int = 2, dropout: float = 0.5, tied: bool = True
    ) -> None:
        super().__init__()
        if min(vocabulary, width, layers) < 1 or not 0 <= dropout < 1:
            raise UserError(
                f"vocabulary={vocabulary}, width={width} and layers={layers} must each be at least 1, and "
                f"dropout={dropout} at least 0 and below 1"
            )
        self.embedding = nn.Embedding(vocabulary, width)
        self.dropout = nn.Dropout(dropout)
        self.lstm = LSTM(width, width, layers, dropout)
        self.decoder = nn.Linear(width, vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        if tied:
            self.decoder.weight = self.embedding.weight

    def forward(self, words: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """int64 [N, T] and the state before it -> scores of the next words [N, T, V] and the state after it."""
        x, state = self.lstm(self.dropout(self.embedding(words.t())), state)
        return self.decoder(x.transpose(0, 1)), state
