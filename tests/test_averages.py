"""Averages of rounded weights lie on no grid: evaluating them is told, once; and how it is done instead, exactly."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import train
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import lpt

X = torch.linspace(-1, 1, 24).view(6, 4)
SCHEMES = ("log4_hyst", "int4", "int3_hyst", "int8_sr", "fp134", "mxfp4", "ocp_e2m1/2x2", "log3", "q_ema")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv1d(1, 3, 2), nn.Flatten(), nn.Linear(9, 4), nn.BatchNorm1d(4))


class Loop:
    def __init__(self, scheme: str, **options: Any) -> None:
        self.model = net()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.3, momentum=0.9)
        scheme = {"q_ema": "log4"}.get(scheme, scheme)
        self.weights = lpt.attach_weights_(self.model, self.optimizer, scheme, **options)

    def step(self) -> None:
        self.optimizer.zero_grad()
        self.model.train()(X[:, None]).square().sum().backward()
        self.optimizer.step()


@contextmanager
def told(times: int) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    texts = [str(w.message) for w in found]
    assert len(texts) == times and all("off its grid" in text for text in texts), texts


def averaged_model(model: nn.Module) -> tuple[nn.Module, Callable[[], None]]:
    average = AveragedModel(model)
    return average, lambda: average.update_parameters(model)


def ema(model: nn.Module) -> tuple[nn.Module, Callable[[], None]]:
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    return average, lambda: average.update_parameters(model)


def by_hand(model: nn.Module) -> tuple[nn.Module, Callable[[], None]]:
    """As most EMA classes do it: a deep copy, and its `.data`."""
    twin = copy.deepcopy(model)

    def update() -> None:
        for a, p in zip(twin.parameters(), model.parameters(), strict=True):
            a.data.lerp_(p.data, 0.3)

    return twin, update


def around(model: nn.Module) -> tuple[nn.Module, Callable[[], None]]:
    """A copy of what is around the model."""
    whole = nn.Sequential(model, nn.Identity())
    twin = copy.deepcopy(whole)

    def update() -> None:
        for a, p in zip(twin.parameters(), whole.parameters(), strict=True):
            a.detach().lerp_(p.detach(), 0.3)

    return twin, update


WAYS = (averaged_model, ema, by_hand, around)


@settings(max_examples=40, deadline=None)
@given(scheme=st.sampled_from(SCHEMES), way=st.sampled_from(WAYS), steps=st.integers(2, 4))
def test_an_average_of_rounded_weights_is_told_once_when_it_is_evaluated(scheme: str, way: Any, steps: int) -> None:
    loop = Loop(scheme)
    average, update = way(loop.model)
    with told(0):
        average.eval()(X[:, None])  # a copy as such is none
        for _ in range(steps):
            loop.step()
            update()
        loop.model.eval()(X[:, None])
    off = any(not torch.equal(loop.weights._members.weights[i].rounded(p.detach()), p.detach())
              for i, p in enumerate(dict(average.named_parameters())[n] for n in names(average)))  # fmt: skip
    assert off or scheme == "int8_sr"
    with told(int(off)):
        average.eval()(X[:, None])
        average(X[:, None])


def names(average: nn.Module) -> list[str]:
    return [name for name, p in average.named_parameters() if p.ndim > 1]


@settings(max_examples=20, deadline=None)
@given(scheme=st.sampled_from(SCHEMES), decay=st.sampled_from([None, 0.75]))
def test_masters_are_averaged_as_it_says_and_evaluated_on_the_grid(scheme: str, decay: float | None) -> None:
    loop = Loop(scheme)
    average = AveragedModel(loop.model, multi_avg_fn=None if decay is None else get_ema_multi_avg_fn(decay))
    wanted: dict[str, Tensor] = {}
    with told(0):
        for i in range(3):
            loop.step()
            before = {n: p.detach().clone() for n, p in loop.model.named_parameters()}
            with loop.weights.unrounded():
                average.update_parameters(loop.model)
            assert all(torch.equal(p, before[n]) for n, p in loop.model.named_parameters())
            share = 1.0 if not i else 1 / (i + 1) if decay is None else 1 - decay
            now = loop.weights.masters
            wanted = {n: wanted.get(n, m).lerp(m, share) for n, m in now.items()}
        with loop.weights.averaged(average.module):
            loop.model.eval()(X[:, None])
            for w in loop.weights._members.weights:
                torch.testing.assert_close(average.module.get_parameter(w.name), wanted[w.name])
                assert torch.equal(w.param, w.rounded(average.module.get_parameter(w.name)))
        loop.model.eval()(X[:, None])
        loop.step()
    assert all(torch.equal(p, before[n]) for n, p in loop.weights.params.items()) is False


def test_training_goes_on_as_if_nothing_had_been_averaged() -> None:
    plain, watched = Loop("int4_hyst"), Loop("int4_hyst")
    average = AveragedModel(watched.model)
    for _ in range(4):
        plain.step()
        watched.step()
        with watched.weights.unrounded():
            average.update_parameters(watched.model)
    for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(plain.weights.masters["2.weight"], watched.weights.masters["2.weight"])


def test_what_is_no_average_is_not_told() -> None:
    loop = Loop("int4_hyst")
    loop.step()
    with told(0):
        state = copy.deepcopy(loop.model.state_dict())
        state["2.weight"] *= 1.01
        loop.model.load_state_dict(state)
        loop.model.eval()(X[:, None])  # quantized when it was loaded
        with loop.weights.averaged({"2.weight": torch.randn(4, 9)}, rounded=False):
            loop.model(X[:, None])
        with torch.no_grad():
            loop.model[2].weight[0].zero_()  # on the grid
        loop.model(X[:, None])
        with torch.no_grad():
            loop.model[2].weight.mul_(1.1)
        loop.model.train()(X[:, None])  # the next step takes it over
        loop.step()
        loop.model.eval()(X[:, None])
        loop.weights.remove()
        with torch.no_grad():
            loop.model[2].weight.mul_(1.1)
        loop.model(X[:, None])


def test_lightnings_averages_are_refused_in_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swa = "+indicators.swa._target_=pytorch_lightning.callbacks.EMAWeightAveraging"
    assert train(tmp_path, swa, "+indicators.swa.decay=0.5", "indicators=none", "trainer.max_steps=4") == 2
    assert "averaging=ema" in capsys.readouterr().err
