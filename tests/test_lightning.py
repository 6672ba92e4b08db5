"""Lightning's conventions are not taken on trust: what it scales, cuts short, clips and looks at."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import differences, metrics, summary, train
from torch import Tensor, nn

from lpt.callbacks.metrics import Metrics
from lpt.callbacks.quantization import Quantization
from lpt.data.base import ImageData
from lpt.dataflow import DataFlow
from lpt.tasks.classification import Classification
from lpt.tasks.schedules import cosine
from lpt.weights import QuantizedWeights

FULL = ("format=fp32", "weights=fp32")


class Points:
    """Images of two pixels, of two classes."""

    prefetch = 0

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(count, 1, 1, 2, generator=generator)
        self.y = (self.x.sum((1, 2, 3)) > 0).long()

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        return self.x[indices], self.y[indices]


def small_task(batches: int, steps: int) -> Classification:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    data = ImageData("points", 2, (1, 1, 2), Points(2 * batches), Points(5), "points")
    optimizer = partial(torch.optim.SGD, lr=0.5, momentum=0.9)
    task = Classification(model, data, optimizer, cosine, batch_size=2, eval_batch_size=2, seed=0)
    task.total_steps = steps
    return task


class Seen(pl.Callback):
    """Gradients as the optimizer is about to see them, and learning rates; in the order of the callbacks."""

    def __init__(self) -> None:
        self.gradients: list[list[Tensor]] = []
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, task: Any, optimizer: Any) -> None:
        self.gradients.append([p.grad.clone() for p in task.model.parameters()])
        self.rates.append(optimizer.param_groups[0]["lr"])


def fit(task: Classification, accumulate: int, epochs: int, *callbacks: Any, **more: Any) -> pl.Trainer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accumulate_grad_batches=accumulate, callbacks=list(callbacks),
            use_distributed_sampler=False, **{"num_sanity_val_steps": 0, **more},
        )  # fmt: skip
        trainer.fit(task)
    return trainer


def by_hand(task: Classification, accumulate: int, epochs: int) -> tuple[list[list[Tensor]], list[float], list[float]]:
    """Mean gradient and learning rate of each step, and the loss of each batch, in plain torch."""
    parameters = list(task.model.parameters())
    optimizer, schedule = task.make_optimizer(parameters), task.make_schedule(task.total_steps)
    gradients, rates, losses = [], [], []
    loader = task.train_batches()
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        batches = list(loader)
        for first in range(0, len(batches), accumulate):
            group = batches[first : first + accumulate]
            found = []
            for x, y in group:
                loss = nn.functional.cross_entropy(task.model(x), y)
                found.append(torch.autograd.grad(loss, parameters))
                losses.append(loss.item())
            for p, parts in zip(parameters, zip(*found, strict=True), strict=True):
                p.grad = torch.stack(parts).double().mean(0).float()
            for p_group in optimizer.param_groups:
                p_group["lr"] = 0.5 * schedule(len(rates))
            gradients.append([p.grad.clone() for p in parameters])
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
    return gradients, rates, losses


@given(st.integers(1, 7), st.integers(1, 6), st.integers(1, 2))
@settings(max_examples=12, deadline=None)
def test_every_step_has_the_mean_gradient_of_its_batches(batches: int, accumulate: int, epochs: int) -> None:
    steps = epochs * -(-batches // accumulate)
    task, twin, seen, means = small_task(batches, steps), small_task(batches, steps), Seen(), Metrics(10**6)
    fit(task, accumulate, epochs, seen, means)
    gradients, rates, losses = by_hand(twin, accumulate, epochs)
    assert len(seen.gradients) == steps and seen.rates == pytest.approx(rates)
    for got, wanted in zip(seen.gradients, gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=2e-5, atol=1e-7)
    torch.testing.assert_close(list(task.model.parameters()), list(twin.model.parameters()), rtol=2e-5, atol=1e-6)
    assert means.latest["train/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    val = task.data.val  # 5 points in batches of 2, 2 and 1
    loss = nn.functional.cross_entropy(task.model(val.x), val.y).item()
    assert means.latest["val/loss"] == pytest.approx(loss, rel=1e-5)


class Errors(pl.Callback):
    """The largest |dL/dA| behind the first layer at each batch."""

    def __init__(self) -> None:
        self.largest: list[float] = []

    def on_fit_start(self, trainer: pl.Trainer, task: Any) -> None:
        keep = lambda module, grads, outputs: self.largest.append(outputs[0].abs().max().item())  # noqa: E731
        task.model[1].register_full_backward_hook(keep)


def test_errors_and_gradients_are_as_large_with_accumulation_as_without() -> None:
    """Also in the short group, so that no tracked scale sees a jump: the learning rate is nil."""
    found = {}
    for accumulate in (1, 4, 100):
        task, errors, seen = small_task(6, 6), Errors(), Seen()
        task.make_schedule = lambda steps: lambda step: 0.0
        fit(task, accumulate, 1, errors, seen)
        found[accumulate] = errors.largest, [torch.cat([g.flatten() for g in step]) for step in seen.gradients]
    assert found[1][0] == found[4][0] == found[100][0]
    assert [len(found[n][1]) for n in (1, 4, 100)] == [6, 2, 1]
    one = torch.stack(found[1][1])
    torch.testing.assert_close(found[4][1], [one[:4].mean(0), one[4:].mean(0)])
    torch.testing.assert_close(found[100][1], [one.mean(0)])


@pytest.mark.parametrize("flow", [{}, {"scaling": "current"}, {"error": "fp16"}])
def test_one_batch_makes_the_same_step_whatever_the_accumulation(flow: dict[str, str]) -> None:
    after = []
    for accumulate in (1, 7, 100):
        task = small_task(1, 3)
        fit(task, accumulate, 3, Quantization(DataFlow(**flow), lambda model: QuantizedWeights(model, "int4")))
        after.append({name: p.detach().clone() for name, p in task.model.named_parameters()})
    assert differences(after[0], after[1]) == differences(after[0], after[2]) == []


def test_g_is_rounded_from_the_mean_and_clipped_after() -> None:
    """Callbacks see the mean; the norm of what the optimizer gets is the limit."""
    task, before = small_task(4, 2), Seen()
    norms = []
    whole = task.configure_gradient_clipping

    def clip(*args: Any, **kwargs: Any) -> None:
        whole(*args, **kwargs)
        norms.append(torch.cat([p.grad.flatten() for p in task.model.parameters()]).norm().item())  # type: ignore[union-attr]

    task.configure_gradient_clipping = clip  # type: ignore[method-assign]
    quantization = Quantization(DataFlow(gradient="fp152"), lambda model: QuantizedWeights(model, "fp32"))
    fit(task, 3, 1, quantization, before, gradient_clip_val=0.01)
    assert norms == pytest.approx([0.01, 0.01], rel=1e-3)
    for gradients in before.gradients:  # of 2 bits behind the point: weights, not biases
        for g in gradients[::2]:
            assert bool((torch.frexp(g[g != 0])[0] * 8 % 1 == 0).all())


# -- from the command line -------------------------------------------------------------------------------------------


def test_curves_and_summary_have_the_mean_loss(tmp_path: Path) -> None:
    for n in (1, 2, 100):
        still = ("optimizer.lr=1e-9", "trainer.epochs=1", "trainer.log_every=100", "indicators=none")
        assert train(tmp_path / str(n), *FULL, *still, f"trainer.accumulate_grad_batches={n}") == 0
    losses = [summary(tmp_path / str(n))["train/loss"] for n in (1, 2, 100)]
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=1e-6) and losses[0] > 1
    assert float(metrics(tmp_path / "100")[-1]["train/loss"]) == losses[2]


@pytest.mark.parametrize("optimizer", ["foreach", "fused"])
def test_optimizers_of_every_build_are_clipped_in_every_precision(tmp_path: Path, optimizer: str) -> None:
    build = ("optimizer=adamw", f"+optimizer.{optimizer}=true", "trainer.gradient_clip_val=1.0")
    assert train(tmp_path, *build, "precision=bf16", "trainer.max_steps=2") == 0
    assert summary(tmp_path)["status"] == "finished"


@pytest.mark.parametrize(
    "choice, said",
    [
        (("optimizer._target_=torch.optim.LBFGS", "~optimizer.momentum", "~optimizer.weight_decay",
          "~optimizer.nesterov"), "LBFGS runs its closure more than once a step"),
        (("optimizer=adam", "+optimizer.capturable=true"), "If capturable=True"),
        (("optimizer=adam", "+optimizer.differentiable=true"), "the optimizer cannot step"),
        (("optimizer._target_=torch.optim.SparseAdam", "~optimizer.momentum", "~optimizer.weight_decay",
          "~optimizer.nesterov"), "SparseAdam does not support dense gradients"),
    ],
)  # fmt: skip
def test_optimizers_that_cannot_work_are_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], choice: tuple[str, ...], said: str
) -> None:
    assert train(tmp_path / "runs", *choice) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("choice, forgotten", [("true", 1), ("rounding", 0)])
def test_a_sweep_of_compiled_networks_starts_each_job_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, forgotten: int
) -> None:
    resets: list[int] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: None)
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(1))
    assert train(tmp_path, *FULL, f"compile={choice}", "trainer.max_steps=1") == 0
    assert len(resets) == forgotten


def frozen(classes: int, in_channels: int, width: int) -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.Flatten(), nn.Linear(width * 36, classes))
    net[0].requires_grad_(False)
    return net


def biases(classes: int, in_channels: int, width: int) -> nn.Sequential:
    net = frozen(classes, in_channels, width)
    net[2].weight.requires_grad_(False)
    return net


@pytest.mark.parametrize("model, measured", [("frozen", True), ("biases", False)])
def test_frozen_layers_have_no_part_in_the_indicators(tmp_path: Path, model: str, measured: bool) -> None:
    own = (f"model._target_=test_lightning.{model}", "~model.depth", "trainer.max_steps=2", "indicators=default")
    assert train(tmp_path, *own, "indicators.angles.every=1", "indicators.angles.batch_size=8") == 0
    row = metrics(tmp_path)[0]
    assert bool(row.get("angle/flow")) == bool(row.get("angle/flow/layer/2.weight")) == measured
    assert "angle/flow/layer/0.weight" not in row and row["activation/saturation"]


def test_validation_comes_before_training_and_in_inference_mode() -> None:
    """As a Trainer of one's own does it: the sanity check, which must leave nothing behind."""
    after = []
    for sanity in (0, 2):
        task = small_task(3, 6)
        weights = partial(QuantizedWeights, scheme="posit8_1", seed=0)
        quantization = Quantization(DataFlow("posit8_1", "posit8_1", "posit8_1", rounding="stochastic"), weights)
        fit(task, 2, 3, quantization, Metrics(1), num_sanity_val_steps=sanity, inference_mode=True)
        assert not any(p.is_inference() for p in [*quantization.weights.masters.values(), *task.model.buffers()])
        after.append(dict(task.model.named_parameters()))
    assert differences(*after) == []
