"""What optimizers do besides moving masters: decay, momenta. Against references written by hand; or told by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lpt
from lpt.weights.trials import decay_kind

KINDS = {"SGD": 1, "Adam": 1, "AdamW": 0, "Adafactor": 0, "Muon": 0, "RMSprop": 1, "Adagrad": 1, "Adadelta": 1,
         "Adamax": 1, "NAdam": 1, "RAdam": 1, "ASGD": 1}  # fmt: skip
NO_DECAY = {"Rprop", "SparseAdam"}
TOLD = {"LBFGS"}


def made(name: str, net: nn.Module, **options: Any) -> torch.optim.Optimizer:
    options = {"lr": 0.01, **({"momentum": 0.9} if name == "SGD" else {}), **options}
    optimizer: torch.optim.Optimizer = getattr(torch.optim, name)(net.parameters(), **options)
    return optimizer


def test_every_optimizer_of_torch_is_known() -> None:
    there = {n for n, v in vars(torch.optim).items() if isinstance(v, type) and n != "Optimizer"}
    assert there == {*KINDS, *NO_DECAY, *TOLD}


@pytest.mark.parametrize("name", list(KINDS))
def test_decay_is_coupled_or_not_by_what_an_optimizer_does(name: str) -> None:
    """The master as after a step by hand, with the quantized weight in place of the master in the decay."""
    steps = []
    for by_hand in (False, True):
        torch.manual_seed(0)
        net = nn.Linear(6, 5, bias=False)
        opt = made(name, net, weight_decay=0.1)
        assert decay_kind(opt, opt.param_groups[0], net.weight) == KINDS[name]
        weights = lpt.attach_weights_(net, opt, "int4", decay="master" if by_hand else "quantized")
        for i in range(3):
            grad = 1e-2 * torch.randn(5, 6, generator=torch.Generator().manual_seed(i))
            q = net.weight.detach().clone()
            if by_hand:
                opt.param_groups[0]["weight_decay"] = 0
                if KINDS[name]:
                    grad.add_(q, alpha=0.1)
                else:
                    weights.masters["weight"].sub_(q, alpha=0.01 * 0.1)
            net.weight.grad = grad
            opt.step()
        assert by_hand or opt.param_groups[0]["weight_decay"] == 0.1
        steps.append(weights.masters["weight"])
    assert torch.equal(*steps)


@pytest.mark.parametrize("options", [{"maximize": True}, {"decoupled_weight_decay": True}, {"lr": torch.tensor(0.01)}])
def test_options_that_change_the_decay(options: dict[str, Any]) -> None:
    net = nn.Linear(3, 2)
    opt = made("Adam", net, weight_decay=0.1, **options)
    wanted = -1 if "maximize" in options else 0 if "decoupled_weight_decay" in options else 1
    assert decay_kind(opt, opt.param_groups[0], net.weight) == wanted
    assert not opt.state and net.weight.grad is None, "the trial leaves no trace"


class Odd(torch.optim.Optimizer):
    """Decays by the square of the weight."""

    def __init__(self, params: Any, lr: float = 0.1, weight_decay: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p -= group["lr"] * (p.grad + group["weight_decay"] * p * p)


class Closure(torch.optim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any) -> Any:
        return closure()


class ScheduleFree(torch.optim.SGD):
    def train(self) -> None: ...

    def eval(self) -> None: ...


@pytest.mark.parametrize(
    ("make", "options", "told"),
    [
        (Odd, {"decay": "quantized"}, "does not fit Odd.*decay='master'"),
        (Closure, {}, "Closure cannot step without its closure"),
        (torch.optim.LBFGS, {}, "LBFGS cannot step without its closure.*must run once"),
        (ScheduleFree, {}, r"ScheduleFree exchanges what the parameters hold in eval\(\)"),
        (torch.optim.Adafactor, {"momentum": "fp169"}, "'row_var' of Adafactor.*momentum='fp32'"),
        (torch.optim.Adam, {"momentum": "fp169", "momentum_use": "rounded"}, "Adam does something else"),
        (lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True), {"momentum": "fp169", "momentum_use": "rounded"},
         "without nesterov"),
        (torch.optim.SGD, {"momentum": "fp169", "momentum_use": "rounded"}, "needs steps of -lr"),
        (torch.optim.SGD, {"momentum_use": "rounded"}, "give momentum='fp169'"),
        (torch.optim.SGD, {"momentum_use": "sometimes"}, "momentum_use='sometimes' is not one of exact, rounded"),
        (lambda p: "SGD", {}, "take a torch.optim.Optimizer.*got a str"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_anything_changes(make: Any, options: dict[str, Any], told: str) -> None:
    net = nn.Linear(4, 4, bias=False)
    before = net.weight.detach().clone()
    with pytest.raises(ValueError, match=told):
        lpt.attach_weights_(net, make(net.parameters()), "int4", **options)
    assert torch.equal(before, net.weight) and not net._load_state_dict_post_hooks
    if options.get("momentum_use") != "sometimes" and told.find("give") < 0 and make(net.parameters()) != "SGD":
        weights = lpt.QuantizedWeights(net, "int4", **options)  # without hooks the first step tells
        with pytest.raises(ValueError, match=told):
            weights.swap_in(make(net.parameters()))
        assert not weights.swapped


FP169 = lpt.formats.get("fp169")


@pytest.mark.parametrize("name", ["Adam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "NAdam", "ASGD", "Rprop", "Muon"])
def test_all_that_an_optimizer_keeps_of_a_weight_is_rounded(name: str) -> None:
    net = nn.Linear(6, 5, bias=False)
    options = {"amsgrad": True} if name == "Adam" else {"momentum": 0.9} if name == "RMSprop" else {}
    opt = made(name, net, **options)
    lpt.attach_weights_(net, opt, "int4", momentum="fp169")
    for _ in range(2):
        net.weight.grad = torch.randn(5, 6)
        opt.step()
    kept = {k: v for k, v in opt.state[net.weight].items() if v.shape == net.weight.shape}
    assert len(kept) >= (3 if name == "Adam" else 1)
    for key, value in kept.items():
        assert torch.equal(FP169.round(value), value), key


@settings(max_examples=20, deadline=None)
@given(
    momentum=st.sampled_from([0.5, 0.9]),
    decay=st.sampled_from([0.0, 0.1]),
    dampening=st.sampled_from([0.0, 0.5]),
    maximize=st.booleans(),
    decay_of=st.sampled_from(["master", "quantized"]),
    seed=st.integers(0, 99),
)
def test_the_master_moves_by_the_rounded_momentum(momentum, decay, dampening, maximize, decay_of, seed):
    """By hand, with the random bits that went into the momentum read back from it."""
    torch.manual_seed(seed)
    net = nn.Linear(4, 3, bias=False)
    opt = torch.optim.SGD(net.parameters(), 0.1, momentum, dampening, decay, maximize=maximize)
    options = {"momentum": "fp169", "momentum_use": "rounded", "decay": decay_of, "seed": seed}
    weights = lpt.attach_weights_(net, opt, "log4_hyst", **options)
    master, buffer = weights.masters["weight"].clone(), None
    for _ in range(4):
        grad = torch.randn(3, 4)
        full = (-grad if maximize else grad).add(master if decay_of == "master" else net.weight.detach(), alpha=decay)
        full = full if buffer is None else (momentum * buffer).add_(full, alpha=1 - dampening)
        net.weight.grad = grad
        opt.step()
        buffer = opt.state[net.weight]["momentum_buffer"]
        between = (buffer == FP169.floor(full)) | (buffer == FP169.ceil(full))
        assert between.all() and torch.equal(FP169.round(buffer), buffer)
        master = master.add(buffer, alpha=-0.1)
        assert torch.equal(weights.masters["weight"], master)
        buffer = buffer.clone()


def test_delayed_scales_move_after_they_were_used() -> None:
    net = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[1.0, 0.5], [0.0, -0.5]]))
    weights = lpt.QuantizedWeights(net, "int4", scaling="delayed")
    seen = []
    for factor in (16.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0):
        weights.swap_in()
        with torch.no_grad():
            net[0].weight.mul_(factor)
        weights.update()
        p, scale = net[0].weight, weights.scales["0.weight"]
        assert torch.equal(p, lpt.weights.nearest(weights.masters["0.weight"], "int4", scale))
        seen.append(scale.item())
    assert seen == [0, 1, 2, 3, 4, 4, 4]
    again = lpt.QuantizedWeights(nn.Sequential(nn.Linear(2, 2, bias=False)), "int4", scaling="delayed")
    again.load_state_dict(weights.state_dict())
    for held in (weights, again):
        held.swap_in()
        with torch.no_grad():
            held.params["0.weight"].fill_(100.0)
        held.update()
        held.swap_in()
        held.update()
    assert weights.scales["0.weight"] == again.scales["0.weight"] == 5


@pytest.mark.parametrize(
    ("make", "decay", "told"),
    [
        (torch.optim.SparseAdam, 0.0, ""),
        (torch.optim.SGD, 0.0, ""),
        (torch.optim.SGD, 0.1, "sparse gradient of '0.weight' dense: use decay='master'"),
    ],
)
def test_sparse_gradients(make: Any, decay: float, told: str) -> None:
    net = nn.Sequential(nn.Embedding(9, 4, sparse=True))
    opt = make(net.parameters(), lr=0.1, **({"weight_decay": decay} if decay else {}))
    weights = lpt.attach_weights_(net, opt, "int4", decay="quantized", momentum="fp169")
    before = weights.masters["0.weight"].clone()
    net(torch.tensor([1, 2])).sum().backward()
    if told:
        with pytest.raises(ValueError, match=told):
            opt.step()
        assert not weights.swapped and opt.param_groups[0]["weight_decay"] == decay
        return
    opt.step()
    assert (before != weights.masters["0.weight"]).any(1).nonzero().flatten().tolist() == [1, 2]


def test_a_failed_step_gives_decay_and_frozen_gradients_back() -> None:
    class Fails(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            if any(bool(p.grad is not None and p.grad.isnan().any()) for p in self.param_groups[0]["params"]):
                raise FloatingPointError
            return super().step(closure)

    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    opt = Fails(net.parameters(), lr=0.1, weight_decay=0.1)
    weights = lpt.attach_weights_(net, opt, "int4", decay="quantized")
    grads: list[Tensor] = []
    for p in net.parameters():
        p.grad = torch.full((2, 2), torch.nan)
        grads.append(p.grad)
    net[1].requires_grad_(False)
    with pytest.raises(FloatingPointError):
        opt.step()
    weights.restore()
    assert opt.param_groups[0]["weight_decay"] == 0.1 and net[1].weight.grad is grads[1]
    assert all(torch.equal(weights.scheme.format.round(p, weights.scales[n]), p) for n, p in weights.params.items())
