"""What others do to a model between two steps: masters follow, or an error names the thing. Never silently neither."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.utils.prune
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lpt
from lpt.dataflow.audit_products import ProductsAudit
from lpt.weights import hysteresis
from lpt.weights.parameters import channel_dim, quantizable

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "Adam": {"lr": 0.01, "amsgrad": True},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "RMSprop": {"lr": 0.01, "momentum": 0.5},
    "Adagrad": {"lr": 0.1},
    "Adadelta": {"lr": 1.0},
    "Adamax": {"lr": 0.01},
    "NAdam": {"lr": 0.01},
    "Rprop": {"lr": 0.01},
    "ASGD": {"lr": 0.1},
    "Adafactor": {"lr": 0.1},
}
LAYERS: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(3, 4),
    lambda: nn.Linear(3, 4, bias=False),
    lambda: nn.Conv2d(4, 4, 2, groups=2),
    lambda: nn.ConvTranspose2d(4, 6, 2, groups=2),
    lambda: nn.ConvTranspose1d(4, 3, 2),
    lambda: nn.LayerNorm([2, 3]),
    lambda: nn.BatchNorm2d(3),
    lambda: nn.Embedding(5, 3),
    lambda: nn.Sequential(nn.Bilinear(2, 2, 2)),
]


def scale_of(module: nn.Module, w: Tensor, format: str) -> Tensor:
    """int32, of the weight's own shape: one scale an output channel of a convolution, channel by channel."""
    f = lpt.formats.get(format)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d):
        scale = torch.empty(w.shape, dtype=torch.int32)
        transposed = not isinstance(module, nn.Conv2d)
        each = w.shape[0] // module.groups if transposed else 1  # rows of a group that share an output channel
        for group in range(0, w.shape[0], each):
            rows = slice(group, group + each)
            for column in range(w.shape[1]) if transposed else [slice(None)]:
                scale[rows, column] = f.scale_of(w[rows, column], None, 0, "rounded").reshape(-1)[0]
        return scale
    return f.scale_of(w, None, 0, "rounded").expand(w.shape)


class Reference:
    """The slow way: masters are the parameters of a plain optimizer, quantized weights lie in a dictionary."""

    def __init__(self, net: nn.Module, format: str) -> None:
        self.modules = {n: net.get_submodule(n.rpartition(".")[0]) for n in quantizable(net)}
        self.format = format
        self.m = {n: nn.Parameter(p.detach().clone()) for n, p in quantizable(net).items()}
        self.q = {n: self.nearest(n, m.detach()) for n, m in self.m.items()}
        self.scale = {n: self.scale_of(n) for n in self.m}
        self.pending = {n: torch.zeros(m.shape, dtype=torch.bool) for n, m in self.m.items()}  # what others wrote
        self.dtype = torch.float32

    def nearest(self, name: str, w: Tensor) -> Tensor:
        return lpt.formats.get(self.format).round(w, scale_of(self.modules[name], w, self.format))

    def scale_of(self, name: str) -> Tensor:
        return scale_of(self.modules[name], self.m[name].detach(), self.format)

    def settle(self, name: str) -> None:
        if self.pending[name].any():
            scale = self.scale_of(name)
            moves = self.pending[name] | (scale != self.scale[name])
            self.q[name] = torch.where(moves, self.nearest(name, self.m[name].detach()).to(self.dtype), self.q[name])
            self.scale[name] = scale
            self.pending[name].zero_()

    def step(self, optimizer: torch.optim.Optimizer, grads: dict[str, Tensor]) -> None:
        for n, m in self.m.items():
            m.grad = grads[n].float() if n in grads else None
        optimizer.step()
        for n, m in self.m.items():
            if n in grads:
                self.scale[n] = self.scale_of(n)
                self.q[n] = hysteresis(m.detach(), self.q[n], self.format, self.scale[n]).to(self.dtype)
                self.pending[n].zero_()
            else:
                self.settle(n)

    def write(self, name: str, values: Tensor) -> None:
        with torch.no_grad():
            changed = values != self.q[name]
            self.m[name][changed] = values[changed].float()
            self.q[name] = values.clone()
            self.pending[name] |= changed

    def load(self, name: str, values: Tensor) -> None:
        if not torch.equal(values, self.q[name]):
            with torch.no_grad():
                self.m[name].copy_(values)
            self.q[name] = self.nearest(name, values.float()).to(self.dtype)
            self.scale[name] = self.scale_of(name)


class Both:
    """The same things done to a net with attached weights and to the reference."""

    def __init__(self, layers: list[int], optimizer: str, format: str, share: bool, seed: int) -> None:
        torch.manual_seed(seed)
        self.net: nn.Module = nn.Sequential(*(LAYERS[i]() for i in layers))
        self.reference = Reference(self.net, format)
        names = list(self.reference.m)
        half = len(names) // 2 if share else 0
        self.shares = [s for s in (names[:half], names[half:]) if s]
        self.kind = optimizer
        self.optimizers = [self.make(s, self.net.get_parameter) for s in self.shares]
        self.plain = [self.make(s, self.reference.m.__getitem__) for s in self.shares]
        self.weights = lpt.attach_weights_(self.net, self.optimizers, f"{format}_hyst")
        self.frozen: set[str] = set()
        self.draw = torch.Generator().manual_seed(seed)

    def make(self, names: list[str], get: Callable[[str], Any]) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = getattr(torch.optim, self.kind)([get(n) for n in names], **OPTIMIZERS[self.kind])
        return made

    def step(self, without: int) -> None:
        names = [n for n in self.reference.m if n not in self.frozen]
        lazy = names[without % len(names)] if names and without % 3 == 0 else ""  # has no gradient this time
        grads = {n: torch.randn(self.reference.m[n].shape, generator=self.draw) for n in names if n != lazy}
        grads = {n: g.to(self.reference.dtype) for n, g in grads.items()}
        for n, p in self.named().items():
            p.grad = grads[n].clone() if n in grads else None
        for share, real, plain in zip(self.shares, self.optimizers, self.plain, strict=True):
            real.step()
            self.reference.step(plain, {n: grads[n] for n in share if n in grads})

    def named(self) -> dict[str, nn.Parameter]:
        return {n: self.net.get_parameter(n) for n in self.reference.m}

    def same(self) -> None:
        for n, p in self.named().items():
            assert torch.equal(self.weights.masters[n], self.reference.m[n]), n
            assert p.dtype == self.reference.dtype and torch.equal(p, self.reference.q[n]), n

    # -- what people do between two steps: `i` picks the weight -------------------------------------------------------

    def pick(self, i: int) -> tuple[str, nn.Parameter]:
        names = list(self.reference.m)
        name = names[i % len(names)]
        return name, self.net.get_parameter(name)

    def clamp(self, i: int) -> None:
        name, p = self.pick(i)
        p.data.clamp_(-0.1, 0.1)
        self.reference.write(name, self.reference.q[name].clamp(-0.1, 0.1))

    def initialize(self, i: int) -> None:
        name, p = self.pick(i)
        nn.init.constant_(p, 0.3)
        self.reference.write(name, torch.full_like(self.reference.q[name], 0.3))

    def exchange_data(self, i: int) -> None:
        name, p = self.pick(i)
        p.data = p.data * 2
        self.reference.write(name, self.reference.q[name] * 2)

    def load_one(self, i: int) -> None:
        name, p = self.pick(i)
        values = torch.randn(p.shape, generator=self.draw).to(self.reference.dtype)
        owner, _, local = name.rpartition(".")
        self.net.get_submodule(owner).load_state_dict({local: values}, strict=False)
        self.reference.load(name, values)

    def load_through_a_wrapper(self, i: int) -> None:
        values = {n: torch.randn(p.shape, generator=self.draw).to(p.dtype) for n, p in self.named().items()}
        nn.ModuleDict({"module": self.net}).load_state_dict({f"module.{n}": v for n, v in values.items()}, strict=False)
        for n, v in values.items():
            self.reference.load(n, v)

    def load_what_is_there(self, i: int) -> None:
        self.net.load_state_dict(copy.deepcopy(self.net.state_dict()))

    def load_an_average_and_back(self, i: int) -> None:
        saved = copy.deepcopy(self.net.state_dict())
        self.net.load_state_dict({k: v * 0.7 if v.is_floating_point() else v for k, v in saved.items()})
        self.net.load_state_dict(saved)

    def swap_and_back(self, i: int) -> None:
        p = self.pick(i)[1]
        backup = p.data.clone()
        p.data.normal_()
        p.data.copy_(backup)

    def freeze(self, i: int) -> None:
        name, p = self.pick(i)
        p.requires_grad_(name in self.frozen)
        self.frozen ^= {name}

    def copy_all(self, i: int) -> None:
        self.net, self.optimizers = copy.deepcopy((self.net, self.optimizers))
        self.reference, self.plain = copy.deepcopy((self.reference, self.plain))
        self.weights = self.net._lpt_weights

    def another_optimizer(self, i: int) -> None:
        self.optimizers[0] = self.make(self.shares[0], self.net.get_parameter)
        self.plain[0] = self.make(self.shares[0], self.reference.m.__getitem__)

    def save_and_restore(self, i: int) -> None:
        saved = pickle.loads(pickle.dumps((self.net.state_dict(), self.weights.state_dict())))
        with torch.no_grad():
            for p in self.net.parameters():
                p.normal_()
        load = [lambda: self.net.load_state_dict(saved[0]), lambda: self.weights.load_state_dict(saved[1])]
        for each in load[:: 1 if i % 2 else -1]:
            each()

    def to_16_bits_or_back(self, i: int) -> None:
        self.reference.dtype = torch.float32 if self.reference.dtype == torch.bfloat16 else torch.bfloat16
        self.net.to(self.reference.dtype)
        self.reference.q = {n: q.to(self.reference.dtype) for n, q in self.reference.q.items()}

    def double_and_back(self, i: int) -> None:
        self.net.double().to(self.reference.dtype)


DEEDS = [name for name in vars(Both) if name not in ("make", "step", "named", "same", "pick") and name[0] != "_"]


@settings(max_examples=40, deadline=None)
@given(
    layers=st.lists(st.sampled_from(range(len(LAYERS))), min_size=1, max_size=5).filter(lambda x: set(x) - {5, 6}),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    format=st.sampled_from(["int4", "log4"]),
    share=st.booleans(),
    seed=st.integers(0, 1000),
    deeds=st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 99)), max_size=8),
)
def test_masters_follow(layers, optimizer, format, share, seed, deeds):
    both = Both(layers, optimizer, format, share, seed)
    for deed, i in [("swap_and_back", 0), *deeds]:
        getattr(both, deed)(i)
        both.step(i)
        both.same()


# -- what a model has become: named, or followed ----------------------------------------------------------------------


class Adapter(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base_layer, self.up = base, nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.up(x)


def two_layers() -> tuple[nn.Sequential, torch.optim.Optimizer, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    return net, opt, lpt.attach_weights_(net, opt, "int4")


def step(net: nn.Module, opt: torch.optim.Optimizer) -> None:
    opt.zero_grad()
    net(torch.ones(2, 4)).square().sum().backward()
    opt.step()


def adapter(net: nn.Sequential) -> None:
    net[2] = Adapter(net[2])


def new_head(net: nn.Sequential) -> None:
    net[2] = nn.Linear(4, 4)


def new_parameter(net: nn.Sequential) -> None:
    net[2].weight = nn.Parameter(torch.ones(4, 4))


def assigned(net: nn.Sequential) -> None:
    net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}, assign=True)


def resized(net: nn.Sequential) -> None:
    net[2].weight.data = torch.ones(4, 4)[:3]
    net[2].bias.data = torch.zeros(3)


def normed(net: nn.Sequential) -> None:
    torch.nn.utils.parametrizations.weight_norm(net[2])


def spectral(net: nn.Sequential) -> None:
    torch.nn.utils.parametrizations.spectral_norm(net[2])


def old_spectral(net: nn.Sequential) -> None:
    torch.nn.utils.spectral_norm(net[2])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (adapter, "'2.up.weight' is another parameter.*refresh"),
        (new_head, "'2.weight' is another parameter.*refresh"),
        (new_parameter, "'2.weight' is another parameter.*refresh"),
        (assigned, "'0.weight' is another parameter.*refresh"),
        (resized, "'2.weight' has shape.*refresh"),
        (normed, "'2.weight' is no weight any more.*parametrization"),
        (spectral, "'2.weight' is no weight any more.*SpectralNorm"),
        (old_spectral, "'2.weight' is no weight any more.*SpectralNorm"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_a_model_that_changed_is_told_and_taken_over(change: Callable[[nn.Sequential], None], told: str) -> None:
    net, opt, weights = two_layers()
    step(net, opt)
    old = weights.masters["0.weight"].clone()
    change(net)
    if change is not resized:
        net(torch.ones(2, 4)).sum().backward()
    with pytest.raises(ValueError, match=told):
        opt.step()
    if "refresh" not in told:
        return
    weights.refresh()
    assert change is assigned or torch.equal(weights.masters["0.weight"], old), "the others keep their masters"
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    if change is not resized:
        step(net, opt)
    for name in quantizable(net):
        p = net.get_parameter(name)
        assert torch.equal(weights.scheme.format.round(p, weights.scales[name]), p)
        assert not torch.equal(weights.masters[name], p) or change is resized


def test_wrapping_tying_pruning_and_removing_are_followed() -> None:
    net, opt, weights = two_layers()
    net[0] = nn.Sequential(net[0])
    step(net, opt)
    assert weights.names == ["0.0.weight", "2.weight"] and set(weights.state_dict()["masters"]) == set(weights.names)
    torch.nn.utils.prune.l1_unstructured(net[2], "weight", 0.5)
    before = weights.masters["2.weight"].clone()
    step(net, opt)
    assert weights.names == ["0.0.weight", "2.weight_orig"]
    changed = before != weights.masters["2.weight_orig"]
    assert changed.any() and not (changed & (net[2].weight_mask == 0)).any(), "those of the mask have no gradient"
    torch.nn.utils.prune.remove(net[2], "weight")
    step(net, opt)
    assert weights.names == ["0.0.weight", "2.weight"]
    net[2].weight = net[0][0].weight
    step(net, opt)
    assert weights.names == ["0.0.weight"]
    net[0] = nn.Identity()
    step(net, opt)
    assert weights.names == ["2.weight"] and weights.params["2.weight"] is net[2].weight


def test_clamping_costs_no_precision_where_it_changes_nothing() -> None:
    net, _, weights = two_layers()
    master, q = weights.masters["0.weight"].clone(), net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight.clamp_(-0.2, 0.2)
    weights.follow()
    wanted = torch.where(q.abs() > 0.2, q.clamp(-0.2, 0.2), master)
    assert torch.equal(weights.masters["0.weight"], wanted) and not torch.equal(wanted, master)


def test_what_was_loaded_and_loaded_back_keeps_its_masters_until_the_next_step() -> None:
    net, opt, weights = two_layers()
    step(net, opt)
    kept = []
    for _ in range(3):
        net.load_state_dict({"0.weight": torch.randn(4, 4)}, strict=False)
        kept.append((copy.deepcopy(net.state_dict()), weights.masters["0.weight"].clone()))
    for state, master in (kept[1], kept[2], kept[1]):
        net.load_state_dict(state)
        assert torch.equal(weights.masters["0.weight"], master)
    opt.param_groups[0]["lr"] = 9.0
    step(net, opt)
    net.load_state_dict(kept[1][0])
    assert not torch.equal(weights.masters["0.weight"], kept[1][1]), "the step forgets"
    assert torch.equal(weights.masters["0.weight"], kept[1][0]["0.weight"])


def test_max_norm_is_refused_and_can_be_skipped() -> None:
    net = nn.Sequential(nn.Embedding(5, 3, max_norm=1.0), nn.Linear(3, 2))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"'0.weight'.*max_norm.*skip="):
        lpt.attach_weights_(net, opt, "int4")
    assert lpt.attach_weights_(net, opt, "int4", skip=["0.*"]).names == ["1.weight"]


def test_all_trainable_weights_need_an_optimizer() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    first = torch.optim.SGD(net[0].parameters(), lr=0.1)
    for model in (net, copy.deepcopy(net)):
        with pytest.raises(ValueError, match="attach_weights_ a list" if model is net else "holds none"):
            lpt.attach_weights_(model, first, "int8")
    net[1].requires_grad_(False)
    weights = lpt.attach_weights_(net, first, "int8_sr")
    still = net[1].weight.detach().clone()
    net[1].weight.grad = torch.ones(1, 4)  # from before it was frozen
    second = torch.optim.SGD(net[1].parameters(), lr=0.1)
    net(torch.ones(3, 4)).sum().backward()
    for opt in (first, second):
        opt.step()
    assert torch.equal(still, net[1].weight) and net[1].weight.grad is not None
    assert weights.flips()[:, 2].tolist() == [16, 0], "what does not change is not counted"


def test_attaching_again() -> None:
    net, opt, weights = two_layers()
    with pytest.raises(ValueError, match=r"attached to an optimizer already.*remove\(\)"):
        lpt.attach_weights_(net, torch.optim.SGD(net.parameters(), lr=0.1), "int8")
    with pytest.raises(ValueError, match="a part of this model"):
        lpt.attach_weights_(nn.Sequential(net[0]), opt, "int8", skip=[])
    step(net, opt)
    masters = {n: m.clone() for n, m in weights.masters.items()}
    weights.remove()
    assert all(torch.equal(p, masters[n]) for n, p in weights.params.items())
    again = lpt.attach_weights_(net, opt, "int8")
    assert all(torch.equal(m, masters[n]) for n, m in again.masters.items())
    calls = weights.calls
    step(net, opt)
    assert (weights.calls, again.calls) == (calls, 1)


def test_a_copy_of_a_part_is_a_plain_module_and_the_whole_can_be_saved() -> None:
    net, _, weights = two_layers()
    part = copy.deepcopy(net[0])
    part.load_state_dict({"weight": torch.full((4, 4), 0.3), "bias": torch.zeros(4)})
    torch.optim.SGD(part.parameters(), lr=0.1).step()
    assert torch.equal(part.weight, torch.full((4, 4), 0.3))
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    for model in (net, again):
        step(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(net[0].weight, again[0].weight)
    assert torch.equal(weights.masters["0.weight"], again._lpt_weights.masters["0.weight"])


def test_a_load_while_the_masters_are_in_is_told() -> None:
    net, opt, weights = two_layers()
    step(net, opt)
    weights.swap_in(opt)
    with pytest.raises(RuntimeError, match="holds its master"):
        net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"scheme": "int8"}, "format 'int8', not 'int4'"),
        ({"scheme": "int4"}, "scheme 'Nearest', not 'Hysteresis'"),
        ({"scheme": "hysteresis", "format": "int4", "width": 0.5}, "width 0.5, not 1.0"),
        ({"granularity": "tensor"}, "granularity 'tensor', not 'channel'"),
        ({"scale_rule": "floor"}, "scale_rule 'floor', not 'rounded'"),
        ({"scaling": "tracked"}, "scaling 'tracked', not 'current'"),
        ({"room": 1}, "room 1, not 0"),
        ({"master": "fp169"}, "master 'fp169', not 'fp32'"),
    ],
)
def test_a_state_of_weights_quantized_in_another_way_is_told(options: dict[str, Any], told: str) -> None:
    def make(**options: Any) -> lpt.QuantizedWeights:
        return lpt.QuantizedWeights(nn.Sequential(nn.Conv2d(2, 3, 2)), **{"scheme": "int4_hyst", **options})

    own, other = make(), make(**options)
    before = copy.deepcopy(own.state_dict())
    with pytest.raises(ValueError, match=told):
        own.load_state_dict(other.state_dict())
    assert torch.equal(own.masters["0.weight"], before["masters"]["0.weight"])
    old = {key: value for key, value in other.state_dict().items() if key != "made"}  # of an earlier version
    if "granularity" in options:
        with pytest.raises(ValueError, match=r"scales of '0.weight' have shape"):
            own.load_state_dict(old)
    else:
        own.load_state_dict(old)
    double = lpt.QuantizedWeights(nn.Sequential(nn.Conv2d(2, 3, 2)).double(), "int4_hyst")
    with pytest.raises(ValueError, match=r"masters of '0.weight' are float64, not float32"):
        own.load_state_dict(double.state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_masters_and_momenta_are_full_precision_whatever_the_dtype(dtype: torch.dtype) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        net = nn.Linear(1, 1, bias=False)
        nn.init.constant_(net.weight, 0.5)
        net.to(dtype)
        opt = torch.optim.AdamW(net.parameters(), lr=1e-4)
        return net, opt, lpt.attach_weights_(net, opt, "int8", master="fp32")

    def go(net: Any, opt: torch.optim.Optimizer, steps: int) -> None:
        for i in range(steps):
            grad = net.weight.grad = torch.full_like(net.weight, 0.1 * (i % 7))
            opt.step()
            assert net.weight.grad is grad and net.weight.dtype == dtype

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    net, opt, weights = make()
    go(net, opt, 50)
    assert weights.masters["weight"].dtype == opt.state[net.weight]["exp_avg"].dtype == wide
    assert abs(weights.masters["weight"].item() - 0.495) < 1e-3
    again, opt2, weights2 = make()
    for target, source in ((again, net), (opt2, opt), (weights2, weights)):
        target.load_state_dict(copy.deepcopy(source.state_dict()))  # type: ignore[attr-defined]
    go(net, opt, 9), go(again, opt2, 9)
    assert torch.equal(weights.masters["weight"], weights2.masters["weight"])


def test_a_dtype_that_does_not_hold_the_format_is_told() -> None:
    with pytest.raises(ValueError, match="'weight' is bfloat16, which does not hold the values of fp169"):
        lpt.QuantizedWeights(nn.Linear(9, 9).bfloat16(), "fp169")


def test_a_step_that_puts_a_tensor_of_its_own_into_the_parameter() -> None:
    class Plain(torch.optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        def step(self, closure: Any = None) -> None:
            for p in self.param_groups[0]["params"]:
                p.data = p.data - 0.1 * p.grad

    net = nn.Linear(2, 2, bias=False)
    opt = Plain(net.parameters())
    weights = lpt.attach_weights_(net, opt, "int4")
    wanted = weights.masters["weight"] - 0.1
    net.weight.grad = torch.ones(2, 2)
    opt.step()
    assert torch.equal(weights.masters["weight"], wanted)
    assert torch.equal(net.weight, lpt.weights.nearest(wanted, "int4", weights.scales["weight"]))
    assert channel_dim(net, "weight") is None


def test_short_names_are_known() -> None:
    """Names such as M.p, which are shorter than what the tracker of modules calls everything."""

    class M(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p, self.head = nn.Conv2d(1, 8, 2, 2), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.p(x).mean((2, 3)))

    handle = lpt.attach_products_(M(), lpt.Products(x="mxfp4", w="mxfp4"))
    x = torch.randn(2, 1, 4, 4)
    assert handle.report(x) == handle.report()
    with ProductsAudit(handle) as audit:
        handle.model(x).sum().backward()
    assert {operand.module for operand in audit.operands} == {"p", "head"} and not audit.off_grid()
