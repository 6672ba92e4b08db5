"""A closure handed to an optimizer runs once a step, on the quantized weights; or it is told why it cannot."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lpt
from lpt.formats import get
from lpt.weights import QuantizedWeights
from lpt.weights.closures import run_first, why_not

ONCE = {
    name: maker
    for name, maker in vars(torch.optim).items()
    if isinstance(maker, type) and issubclass(maker, torch.optim.Optimizer)
    if name not in ("Optimizer", "LBFGS", "SparseAdam")
}


class Twice(torch.optim.SGD):
    """Sharpness-aware in its bare form: moves the weights, and runs the closure there."""

    def step(self, closure=None):  # type: ignore[no-untyped-def, override]
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.add_(0.1)
        with torch.enable_grad():
            closure()
        return super().step()


def make(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))


def attach(model: nn.Module, optimizer: torch.optim.Optimizer, scheme: str = "int4") -> QuantizedWeights:
    """As `attach_weights_` does it, which refuses LBFGS before that."""
    weights = QuantizedWeights(model, scheme)
    optimizer.register_step_pre_hook(
        lambda opt, args, kwargs: run_first(opt, args, kwargs, lambda: weights.swap_in(opt), weights.restore)
    )
    optimizer.register_step_post_hook(lambda opt, args, kwargs: weights.update(opt))
    return weights


def steps(name: str, way: str, count: int = 3) -> dict[str, Tensor]:
    """Masters and weights after some steps with a closure by place, by name or with none at all."""
    model = make()
    if name == "Muon":  # for matrices alone
        model.requires_grad_(False)
        for layer in model[::2]:
            layer.weight.requires_grad_()
    optimizer = ONCE[name]([p for p in model.parameters() if p.requires_grad], lr=0.05)
    weights = lpt.attach_weights_(model, optimizer, "int4")
    on_grid = []

    def closure() -> Tensor:
        on_grid.append(torch.equal(model[0].weight, get("int4").round(model[0].weight, weights.scales["0.weight"])))
        optimizer.zero_grad()
        loss = (model(torch.ones(3, 4)) - 1).square().mean()
        loss.backward()
        return loss

    for _ in range(count):
        if way == "none":
            closure()
            optimizer.step()
        else:
            loss = optimizer.step(closure) if way == "place" else optimizer.step(closure=closure)
            assert loss > 0
    assert on_grid == [True] * count
    return {**weights.masters, **dict(model.named_parameters())}


@given(st.sampled_from(sorted(ONCE)), st.sampled_from(["place", "name"]))
@settings(max_examples=25, deadline=None)
def test_a_closure_gives_what_backward_before_the_step_gives(name: str, way: str) -> None:
    plain, closed = steps(name, "none"), steps(name, way)
    assert all(torch.equal(plain[key], closed[key]) for key in plain)


@pytest.mark.parametrize("maker", [torch.optim.LBFGS, Twice])
def test_a_closure_that_would_run_on_masters_raises(maker: type[torch.optim.Optimizer]) -> None:
    model = make()
    optimizer = maker(model.parameters(), lr=0.1)  # type: ignore[call-arg]
    weights = attach(model, optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(3, 4)).square().mean()
        loss.backward()
        return loss

    with pytest.raises(ValueError, match=f"{maker.__name__} .*its closure.*must run once"):
        optimizer.step(closure)
    weight = model[0].weight  # as before the step
    assert torch.equal(weight, get("int4").round(weight, weights.scales["0.weight"])) and not weights.swapped


@pytest.mark.parametrize("name", sorted(ONCE))
def test_optimizers_of_torch_can_train_quantized_weights(name: str) -> None:
    parameters = [p for p in make().parameters() if p.ndim == 2 or name != "Muon"]
    assert why_not(lambda held: ONCE[name](held, lr=0.1), parameters) == ""


def test_why_others_cannot() -> None:
    parameters = list(make().parameters())
    cases = [
        (torch.optim.LBFGS, {}, [], "LBFGS runs its closure more than once a step"),
        (Twice, {"lr": 0.1}, [], "Twice moves the weights before it runs its closure"),
        (torch.optim.SparseAdam, {}, [], "SparseAdam does not support dense gradients"),
        (torch.optim.AdamW, {}, [True, False, False, False], "does not support sparse gradients"),
        (torch.optim.Adam, {"capturable": True}, [], "If capturable=True"),
        (torch.optim.Muon, {}, [], "Muon only supports 2D parameters"),
    ]
    for maker, options, sparse, said in cases:
        assert said in why_not(lambda held, maker=maker, options=options: maker(held, **options), parameters, sparse)  # type: ignore[misc]
    assert why_not(lambda held: torch.optim.LBFGS(held, max_iter=1), parameters) == ""  # which runs it once
    assert why_not(torch.optim.SGD, parameters, [True, False, False, False], clip=1.0) == ""
    decayed = why_not(lambda held: torch.optim.SGD(held, weight_decay=0.1), parameters, [True, False, False, False])
    assert decayed.endswith("some gradients are sparse, since an embedding has sparse=True")


class Own(pl.LightningModule):
    """A user's module: weights attached in `configure_optimizers`, automatic optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.net = make()

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.fed = torch.equal(
            self.net[0].weight, get("int4").round(self.net[0].weight, self.weights.scales["0.weight"])
        )
        return (self.net(batch) - 1).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(self.net.parameters(), lr=0.05, momentum=0.9)
        self.flow = lpt.attach_(self.net)
        self.weights = lpt.attach_weights_(self.net, optimizer, "int4")
        return optimizer

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.flow.step()


def test_a_lightning_module_of_ones_own_trains_on_quantized_weights(tmp_path: Path) -> None:
    batches = list(torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(1)))
    task = Own()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        trainer = pl.Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(task, torch.utils.data.DataLoader(batches, batch_size=None))
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    flow, weights = lpt.attach_(model), lpt.attach_weights_(model, optimizer, "int4")
    for batch in batches * 2:
        optimizer.zero_grad()
        (model(batch) - 1).square().mean().backward()
        flow.step()
        optimizer.step()
    assert task.fed
    assert all(torch.equal(task.weights.masters[name], weights.masters[name]) for name in weights.masters)
