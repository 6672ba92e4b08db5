"""Angles against a computation of their own: the forward pass written out, hooks on tensors, levels looked up."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from formats import oracle
from networks import convolutional, images
from torch import Tensor, nn

import lpt
from lpt.dataflow.ops import Add, Function, Mul
from lpt.models import LSTMLanguageModel, Transformer
from lpt.search import Probe
from lpt.weights.parameters import quantizable

LISTS = {
    "fp134": [5] * 7 + [4, 3, 2, 1], "fp143": [4] * 15 + [3, 2, 1], "fp152": [3] * 31 + [2, 1],
    "int8": [7, 6, 5, 4, 3, 2, 1], "fp124": [5] * 3 + [4, 3, 2, 1], "int6": [5, 4, 3, 2, 1],
    "fp132": [3] * 7 + [2, 1], "log4": [1] * 7, "int4": [3, 2, 1], "[7,5,11x3,2,1]": [7, 5] + [3] * 11 + [2, 1],
}  # fmt: skip
FORMATS = [*LISTS, "int8_full", "ocp_e4m3", "posit8_0"]
NEAR = 1e-4  # degrees


# -- the computation of its own ----------------------------------------------------------------------------------------


def grid(format: str) -> tuple[oracle.Grid, int]:
    """The format from the definitions alone, and the exponent of its top octave."""
    if format.startswith("posit"):
        return oracle.posit(8, 0), 0  # its largest value lies where it has the most fraction bits
    if format == "int8_full":
        return oracle.octaves([7, 6, 5, 4, 3, 2, 1], low_extra=True), 0
    if format == "ocp_e4m3":
        return oracle.octaves([4] * 15 + [3, 2, 1], 8, drop_top=1), 8
    return oracle.octaves(LISTS[format]), 0


def nearest(x: Tensor, format: str) -> Tensor:
    """The nearest of the format's levels, its top octave where the largest |x| is."""
    exact, top = grid(format)
    scale = 2.0 ** (math.frexp(x.abs().max().item())[1] - 1 - top)
    levels, ties = (torch.tensor([float(v) for v in vs]).double() * scale for vs in (exact.levels, exact.ties))
    up = torch.tensor([*exact.tie_goes_up, False])
    if exact.never_zero:
        zero = len(levels) // 2
        ties[zero - 1 : zero + 1], up[zero - 1], up[zero] = 0.0, True, False
    below = torch.bucketize(x.contiguous(), ties)
    tied = up[below] & (x == torch.cat([ties, torch.full((1,), torch.inf)])[below])
    return levels[below + tied]


def dual(x: Tensor, format: str) -> Tensor:
    q = nearest(x, format)
    return q + nearest(x - q, format)


class Own:
    """What happens to a tensor behind a module: `edge(x)`; and to the operand of a weight gradient."""

    def __init__(self, error: str | None = None, activation: str | None = None) -> None:
        self.error, self.activation = error, activation

    def __call__(self, x: Tensor, last: bool = False) -> Tensor:
        x = x * 1.0  # a tensor of its own, for the hook
        if self.error and x.requires_grad:
            x.register_hook(lambda g: (dual if last else nearest)(g, self.error))
        if self.activation is None or last:
            return x
        return nearest(x.detach(), self.activation) + (x - x.detach())  # exactly on the grid: max-pooling sees ties

    def input(self, x: Tensor) -> Tensor:
        return x if self.activation is None else dual(x, self.activation)


def own_convolutional(m: nn.Sequential, x: Tensor, edge: Own) -> Tensor:
    def norm(x: Tensor, n: nn.BatchNorm2d) -> Tensor:
        scale = (n.weight / (n.running_var + n.eps).sqrt()).view(1, -1, 1, 1)
        return edge((x - n.running_mean.view(1, -1, 1, 1)) * scale + n.bias.view(1, -1, 1, 1))

    def block(x: Tensor, b: nn.Module) -> Tensor:
        y = norm(edge(F.conv2d(x, b.conv1.weight, padding=1)), b.bn1).relu()
        y = norm(edge(F.conv2d(y, b.conv2.weight, padding=1)), b.bn2)
        return edge(y + x).relu()

    x = norm(edge(F.conv2d(edge.input(x), m[0].weight, padding=1)), m[1]).relu()
    x = block(F.max_pool2d(block(x, m[3]), 2), m[5])
    return edge(edge(x.mean((2, 3))) @ m[8].weight.T + m[8].bias, last=True)


class LSTM(nn.Module):
    """One layer, four steps, products, sums and gates as modules."""

    def __init__(self, width: int = 6, words: int = 11) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(words, width)
        self.gates = nn.Linear(2 * width, 4 * width)
        self.sigmoid, self.tanh = nn.Sigmoid(), nn.Tanh()
        self.forget, self.write, self.out, self.add = Mul(), Mul(), Mul(), Add()
        self.decoder = nn.Linear(width, words)

    def forward(self, words: Tensor) -> Tensor:
        h = c = torch.zeros(len(words), self.width, dtype=self.gates.weight.dtype)
        hs = []
        for x in self.embedding(words).unbind(1):
            i, f, o, g = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
            c = self.add(self.forget(self.sigmoid(f), c), self.write(self.sigmoid(i), self.tanh(g)))
            h = self.out(self.sigmoid(o), self.tanh(c))
            hs.append(h)
        return self.decoder(torch.stack(hs, 1)).flatten(0, 1)


def own_lstm(m: LSTM, words: Tensor, edge: Own) -> Tensor:
    h = c = torch.zeros(len(words), m.width, dtype=torch.float64)
    hs = []
    for x in edge(m.embedding.weight[words]).unbind(1):
        i, f, o, g = edge(torch.cat([x, h], 1) @ m.gates.weight.T + m.gates.bias).chunk(4, 1)
        c = edge(edge(edge(f.sigmoid()) * c) + edge(edge(i.sigmoid()) * edge(g.tanh())))
        h = edge(edge(o.sigmoid()) * edge(c.tanh()))
        hs.append(h)
    return edge(torch.stack(hs, 1) @ m.decoder.weight.T + m.decoder.bias, last=True).flatten(0, 1)


def degrees(g: list[Tensor], h: list[Tensor]) -> float:
    a, b = (torch.cat([t.flatten() for t in ts]) for ts in (g, h))
    return math.degrees(math.acos(min(1.0, (a @ b / a.norm() / b.norm()).item())))


def own_local(model: nn.Module, x: Tensor, y: Tensor, weights: list[Tensor], format: str) -> list[Tensor]:
    """Each product again, on its rounded input, with its output's gradient of the pass in full precision."""
    return own_local_of(model, lambda: F.cross_entropy(model(x), y), x, weights, format)


def own_local_of(
    model: nn.Module, compute: Callable[[], Tensor], x: Tensor, weights: list[Tensor], format: str
) -> list[Tensor]:
    """The same of any loss; a product may be a `Function(F.linear)` that is handed its weight."""
    calls: list[tuple[nn.Module, tuple[Tensor, ...], Tensor]] = []
    products = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))
                or (isinstance(m, Function) and m.function is F.linear)]  # fmt: skip
    hooks = [m.register_forward_hook(lambda m, a, z: calls.append((m, a, z))) for m in products]
    loss = compute()
    for hook in hooks:
        hook.remove()
    errors = torch.autograd.grad(loss, [z for _, _, z in calls], retain_graph=True)
    plain = torch.autograd.grad(loss, weights, retain_graph=True)
    change = sum(
        ((m((dual if a[0] is x else nearest)(a[0].detach(), format), *a[1:]) - m(a[0].detach(), *a[1:])) * e).sum()
        for (m, a, _), e in zip(calls, errors, strict=True)
    )
    changes = torch.autograd.grad(change, weights, allow_unused=True)
    return [p if c is None else p + c for p, c in zip(plain, changes, strict=True)]


# -- compared ----------------------------------------------------------------------------------------------------------


def trained_statistics() -> tuple[nn.Sequential, Tensor, Tensor]:
    model = convolutional(width=4).double()
    x, y = images(12)
    for _ in range(5):
        model(x.double())  # batch-norm's running statistics
    return model.eval(), x.double(), y


def lstm() -> tuple[LSTM, Tensor, Tensor]:
    torch.manual_seed(0)
    words = torch.randint(11, (5, 4))
    return LSTM().double(), words, torch.randint(11, (20,))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("make", [trained_statistics, lstm], ids=["convolutional", "lstm"])
def test_angles_equal_a_computation_of_their_own(make, format: str) -> None:
    model, x, y = make()
    own = own_lstm if isinstance(model, LSTM) else own_convolutional
    weights = [p for n, p in model.named_parameters() if p.ndim > 1]

    def gradient(edge: Own) -> list[Tensor]:
        return list(torch.autograd.grad(F.cross_entropy(own(model, x, edge), y), weights))

    reference = gradient(Own())
    wanted = {
        "error": degrees(gradient(Own(error=format)), reference),
        "propagated": degrees(gradient(Own(activation=format)), reference),
        "local": degrees(own_local(model, x, y, weights, format), reference),
    }
    for activation in ("local", "propagated"):
        with Probe(model, lambda batch: F.cross_entropy(model(batch[0]), batch[1]), activation) as probe:
            found = probe.at((x, y))(lpt.formats.get(format))
        assert list(probe.weights) == [n for n, p in model.named_parameters() if p.ndim > 1]
        assert found.error == pytest.approx(wanted["error"], abs=NEAR)
        assert found.activation == pytest.approx(wanted[activation], abs=NEAR)
    assert all(angle > 0.01 for angle in wanted.values())


def language() -> tuple[nn.Module, Callable[[], Tensor]]:
    model = LSTMLanguageModel(11, width=6).double()
    words = torch.randint(11, (5, 4))
    return model, lambda: F.cross_entropy(model(words)[0].flatten(0, 1), torch.arange(20) % 11)


def translation() -> tuple[nn.Module, Callable[[], Tensor]]:
    model = Transformer(13, 0, width=8, layers=1, heads=2, feedforward=12).double()
    source, target = torch.randint(1, 13, (5, 6)), torch.randint(1, 13, (5, 4))
    return model, lambda: F.cross_entropy(model(source, target).flatten(0, 1), torch.arange(20) % 13)


@pytest.mark.parametrize("make", [language, translation])
def test_weights_that_a_product_is_handed_count(make) -> None:
    torch.manual_seed(0)
    model, compute = make()
    model.eval()
    weights = list(quantizable(model).values())
    with Probe(model, lambda _: compute()) as probe:
        found = probe.at(())(lpt.formats.get("fp134"), True)
    reference = list(torch.autograd.grad(compute(), weights))
    wanted = own_local_of(model, compute, torch.empty(0), weights, "fp134")
    assert found.activation == pytest.approx(degrees(wanted, reference), abs=NEAR)
    for name, layer in zip(probe.weights, found.activation_layers, strict=True):
        assert (layer > 0) == (name != "source.tokens.weight"), name  # which is looked up, and no product


def test_sparse_gradients_count_by_their_values() -> None:
    """An embedding with `sparse=True` gives the angles of one without; it may be looked up twice."""
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2))
        with Probe(model, lambda x, model=model: model(x).square().sum()) as probe:  # type: ignore[misc]
            found.append(probe.at(torch.tensor([[1, 2, 2], [7, 1, 0]]))(lpt.formats.get("int4"), True))
    assert found[0] == found[1] and found[0].error > 1
