"""`visible` either computes what the model computes, bit for bit, or says what keeps it from that."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn

from lpt.errors import UserError
from lpt.models import visible

Forward = Callable[[Any, Tensor], Any]


class Toy(nn.Module):
    """`compute(self, x)` for x (N, 8)."""

    def __init__(self, compute: Forward) -> None:
        super().__init__()
        self.compute = compute
        self.a = nn.Linear(8, 8)
        self.inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.weight = nn.Parameter(torch.randn(8))
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8, dtype=torch.float64))
        self.count = 0
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


def toy(compute: Forward) -> Toy:
    torch.manual_seed(0)
    return Toy(compute)


def does(statements: str, returns: str = "h") -> Forward:
    """A forward that begins with h = self.a(x)."""
    lines = ["def forward(self, x):", "h = self.a(x)", *statements.split("; "), f"return {returns}"]
    names: dict[str, Any] = {"torch": torch, "F": F, "random": random}
    exec("\n    ".join(lines), names)
    forward: Forward = names["forward"]
    return forward


def same(compute: Forward, close: float = 0.0) -> None:
    """Whether the traced model is as the original, in both modes, its buffers and the input included."""
    original = toy(compute)
    adapted = visible(copy.deepcopy(original))
    for mode in (True, False):
        results = []
        for model in (original, adapted):
            x = torch.linspace(-2, 2, 32).reshape(4, 8)
            torch.manual_seed(1)
            with torch.no_grad():
                results.append([model.train(mode)(x), x, *model.buffers()])
        for expected, got in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, rtol=close, atol=0.0)


REFUSED = {
    "h[:, :2].mul_(10.0)": "mul_ writes into memory that is read later",
    "v = h[:, 1:]; v += 1": "iadd writes into memory",
    "q, k = h.chunk(2, 1); q *= 3": "imul writes into memory",
    "h.view(-1).add_(1)": "add_ writes into memory",
    "h.t().mul_(2)": "mul_ writes into memory",
    "h.T.mul_(2)": "mul_ writes into memory",
    "h.detach().mul_(2)": "mul_ writes into memory",
    "h.expand(2, 4, 8)[0].sub_(1)": "sub_ writes into memory",
    "v = h.reshape(-1); v.sigmoid_()": "sigmoid_ writes into memory",
    "v = h.contiguous(); torch.sigmoid_(v)": "sigmoid_ writes into memory",
    "v = self.drop(h); v += 1": "iadd writes into memory",
    "v = F.dropout(h, 0.5, self.training); v += 1": "iadd writes into memory",
    "v = F.silu(h[:, :4], True)": "silu writes into memory",
    "v = F.silu(h[:, :4], inplace=True)": "silu writes into memory",
    "v = F.dropout(h[0], 0.5, self.training, inplace=True)": "dropout writes into memory",
    "v = self.relu(h); v += 1": "iadd writes into memory",
    "v = h[1]; h **= 2; h = h + v": "ipow writes into memory",
    "q, k = h.expand(2, 4, 8); q *= 2; h = k": "imul writes into memory",
    "self.seen.add_(1)": "add_ writes into its own buffer or parameter seen",
    "self.seen += 1": "iadd writes into its own buffer or parameter seen",
    "self.seen = self.seen + 1": "sets seen in its forward",
    "self.seen.copy_(h.mean())": "copy_ writes, and has no form out of place",
    "self.mean[0].mul_(2)": "its own buffer or parameter mean",
    "self.weight.data.mul_(2)": "its own buffer or parameter weight",
    "x.mul_(2)": "writes into its input",
    "x.view(-1).mul_(2)": "writes into its input",
    "h.copy_(h * 2)": "copy_ writes, and has no form out of place",
    "h.zero_()": "zero_ writes, and has no form",
    "h.fill_(2.0)": "fill_ writes, and has no form",
    "h.normal_()": "normal_ writes, and has no form",
    "h.bernoulli_()": "bernoulli_ writes, and has no form",
    "torch.add(h, 1, out=h)": "no form out of place",
    "torch._foreach_add_([h, h], 1)": "several tensors",
    "h[:, 0] = 0": "assigns to items of a tensor",
    "h[0] += 1": "items of a tensor|writes into memory",
    "h.data = x": "sets data of a tensor",
    "self.count += 1": "sets count in its forward",
    "self.last = h": "sets last in its forward",
    "self.cache['h'] = h": "sets h in its forward",
    "h[0].clamp_(0).mul_(2)": "clamp_ writes into memory",
    "h.narrow(1, 0, 2).index_fill_(0, torch.tensor(0), 1)": "writes into memory|out of nothing",
    "h = h * random.random()": "random numbers",
    "h = h * torch.rand(()).item()": "random numbers",
    "torch.set_grad_enabled(False); h = h * 2; torch.set_grad_enabled(True)": "switches gradients",
    "with torch.no_grad(): h = self.a(x)": "switches gradients",
    "with torch.inference_mode(): h = self.inner(x)": "switches gradients",
    "with torch.no_grad(): h = self.relu(h)": "switches gradients",
    "with torch.autocast('cpu'): h = self.a(x)": "within torch.autocast",
    "with torch.autocast('cpu', enabled=False): h = self.inner(x)": "within torch.autocast",
    "with torch.autocast('cpu', torch.float16): h = h * 2": "within torch.autocast",
}


@pytest.mark.parametrize("statements", REFUSED)
def test_what_a_graph_would_compute_otherwise_is_refused(statements: str) -> None:
    model = toy(does(statements))
    before = str(model), vars(model).copy(), random.getstate()
    try:
        with pytest.raises(UserError, match=REFUSED[statements]) as told:
            visible(model)
    finally:
        torch.set_grad_enabled(True)
    assert "list index" not in str(told.value)
    assert (str(model), vars(model), random.getstate()) == before


RIGHT = [
    "h += 1; h *= 2",
    "same = h; h += 1; h *= 2; h = same + h",
    "same = h; h **= 2; h //= 3; h %= 2; h = same",
    "v = h.view(-1); v += 1; h = v.view(4, 8)",
    "q, k = h.chunk(2, 1); q *= 3; h = torch.cat([q, k], 1)",
    "q, k, v, w = h.unflatten(1, (4, 2)).unbind(1); k += q; v.mul_(k); h = torch.cat([q, k, v, w], 1)",
    "v = h[:2] + 1; h += 1; h[0:2].sum(); h = h * v.sum()",
    "v = h.clone(); v += 1; h = h * v",
    "v = h[torch.arange(2, device=h.device).tolist()]; h += 1; h = h * v.sum()",
    "v = F.hardtanh(h, -0.5, 0.5, True); h = v + h",
    "h = F.silu(h, inplace=True); h = torch.sigmoid_(h)",
    "v = F.dropout(h, 0.5, self.training, inplace=True); h = h + v",
    "v = self.relu(h[:, :4])",
    "h = self.relu(h); h += x",
    "v = h.sum(0); v += 1; h = h + v",
    "n = h.shape[0]; n += 2; h = h * n",
    "m = h > 0; m &= h < 1; h = h * m",
]


@pytest.mark.parametrize("statements", RIGHT)
def test_writes_that_nothing_else_sees_stay_allowed_and_exact(statements: str) -> None:
    same(does(statements))


VIEWS = [
    "{0}",
    "{0}[:2]",
    "{0}[1:]",
    "{0}[..., :4]",
    "{0}.view(-1, 4)",
    "{0}.t().t()",
    "{0}.reshape(-1, 2)",
    "{0}.clone()",
]
VIEWS += ["{0}.detach()", "self.drop({0})", "self.relu({0})", "{0} * 2", "{0}.chunk(2, 0)[0]", "{0}.split(1)[1]"]
WRITES = ["{0} += 1", "{0}.mul_(3)", "{0}.tanh_()", "{0} -= {0}.mean()", "F.silu({0}, inplace=True)", "self.relu({0})"]
WRITES += ["{0} *= {1}.mean()", "{0}.relu_()", "self.seen.add_({0}.mean())"]


@st.composite
def programs(draw: st.DrawFn) -> tuple[str, str]:
    """Statements over views h, a, b, ... of one or several memories, and what is returned: sums of some of them."""
    names, lines = ["h"], []
    for _ in range(draw(st.integers(1, 6))):
        one, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        if draw(st.booleans()):
            names.append("abcdefg"[len(names) - 1])
            lines.append(f"{names[-1]} = {draw(st.sampled_from(VIEWS)).format(one)}")
        else:
            lines.append(draw(st.sampled_from(WRITES)).format(one, other))
    read = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    return "; ".join(lines), " + ".join(f"{name}.sum()" for name in read)


@settings(max_examples=60, deadline=None)
@given(programs())
def test_random_programs_are_exact_or_refused(program: tuple[str, str]) -> None:
    try:
        with torch.no_grad():
            toy(does(*program))(torch.ones(4, 8))
    except (RuntimeError, IndexError, TypeError):
        return  # too few rows left, a view across strides: torch would not run it either
    try:
        same(does(*program), close=1e-5)  # (a sum adds up a view in another order than a tensor of its own)
    except UserError as error:
        assert "writes" in str(error)


# -- with an example -------------------------------------------------------------------------------------------------

X = torch.linspace(-2, 2, 32).reshape(4, 8)


def test_an_example_finds_what_no_graph_shows() -> None:
    """float32 += float64 stays float32 in place, and is float64 out of place."""
    model = toy(does("h += self.mean"))
    before = str(model)
    with pytest.raises(UserError, match=r"its output in training differs \(torch.float32 .* against torch.float64"):
        visible(model, example=X)
    assert str(model) == before
    with pytest.raises(UserError, match=r"its output in training differs \(by up to"):
        visible(toy(lambda self, x: self.a(x) * (2 if type(x) is Tensor else 3)), example=X)


def test_an_example_finds_a_gradient_that_is_lost() -> None:
    """A value that a tracer does not see: it says which class the input has."""
    hidden = toy(lambda self, x: self.a(x.detach()) + (self.inner(x).detach() if type(x) is Tensor else self.inner(x)))
    with pytest.raises(UserError, match=r"whether inner.0.weight gets a gradient differs"):
        visible(hidden, example=X)
    assert all(p.grad is None for p in hidden.parameters())


def test_autocast_around_the_model_is_kept_and_no_block_stays_open() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        result = visible(toy(does("h = self.inner(h)")), example=X)
        assert result(X).dtype == torch.bfloat16
    assert result(X).dtype == torch.float32 and torch.autocast_increment_nesting() == 1
    torch.autocast_decrement_nesting()


def test_a_forward_that_depends_on_the_mode_is_told_in_python() -> None:
    model = toy(lambda self, x: self.a(x) * 2 if self.training else self.a(x) + self.relu(x))
    with pytest.raises(UserError, match=r"apart from dropout: '.*self.mul\(.*' against '.*self.relu\(") as told:
        visible(model)
    assert "num_users" not in str(told.value) and "%" not in str(told.value)


def test_an_example_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)).eval()
    expected, state, x = copy.deepcopy(model.state_dict()), torch.get_rng_state(), X.clone()
    result = visible(model, example=x)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, X)
    assert not any(module.training for module in result.modules())
    for key, value in result.state_dict().items():
        assert torch.equal(value, expected[key])


def test_an_example_that_the_model_does_not_take_is_told() -> None:
    with pytest.raises(UserError, match=r"Toy cannot take an example of shape \(4, 5\)"):
        visible(toy(does("h += 1")), example=torch.ones(4, 5))


FAMILIES = ["mobilenetv3_small_050", "xcit_nano_12_p16_224", "regnetx_002"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_sample_of_families_is_as_it_was(name: str) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4)
    size = 224 if name[-3:] == "224" else 32
    visible(model, example=torch.rand(2, 3, size, size))
