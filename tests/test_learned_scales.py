"""Scales that train with their weights (LSQ), against plain autograd on random walks."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lpt

UNIT = {"int4": 0.25, "int3": 0.5, "log3": 0.25, "ocp_e2m1": 0.5}  # the smallest positive level


class Reference:
    """LSQ as its paper has it, in float64: w and s are parameters, autograd does the rest, straight-through."""

    def __init__(self, w: Tensor, element: str, columns: int | None) -> None:
        levels = lpt.formats.get(element).values() / UNIT[element]
        self.levels, self.most = levels, float(levels.max())
        self.shape = w.shape
        rows = w.double().reshape(1, -1) if columns is None else w.double().reshape(-1, columns)
        self.w = nn.Parameter(rows.clone())
        self.s = nn.Parameter(2 * rows.abs().mean(1, keepdim=True) / math.sqrt(self.most))
        self.gain = 1 / math.sqrt(rows.shape[1] * self.most)

    def quantized(self) -> Tensor:
        s = self.s * self.gain + (self.s - self.s * self.gain).detach()
        v = (self.w / s).clamp(float(self.levels.min()), self.most)
        near = (v.detach()[..., None] - self.levels).abs().argmin(-1)
        q = v + (self.levels[near] - v).detach()
        return (q * s).view(self.shape)


def optimizers(kind: str, parameters: Any) -> torch.optim.Optimizer:
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=0.002, momentum=0.9, weight_decay=0.01)
    return torch.optim.AdamW(parameters, lr=0.0002, weight_decay=0.1)


def walk(shape: tuple[int, ...], steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) * 0.3 for _ in range(steps)]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("format", "columns"),
    [("int4/tensor/fp32", None), ("int3/sample/fp32", 32), ("log3/16/fp32", 16), ("ocp_e2m1/line/fp32/sawb", 32)],
)  # fmt: skip
def test_a_walk_goes_as_by_autograd(format: str, columns: int | None, kind: str) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(32, 6, bias=False)
    with torch.no_grad():
        linear.weight[:, ::16] *= 10  # beyond the levels
    reference = Reference(linear.weight.detach(), format.partition("/")[0], columns)
    optimizer = optimizers(kind, linear.parameters())
    weights = lpt.attach_weights_(linear, optimizer, format, scaling="lsq")
    other = optimizers(kind, [reference.w, reference.s])
    element = format.partition("/")[0]
    moved, stopped = 0.0, 0
    for pull in walk((6, 32), 60):
        before = weights.scales["weight"].double() * UNIT[element]
        with torch.no_grad():  # each step from where the other one is, so that no tie ever tells them apart
            reference.w.copy_(weights.masters["weight"].double().view_as(reference.w))
            reference.s.copy_(before.view_as(reference.s))
        assert torch.allclose(linear.weight.detach().double(), reference.quantized().detach(), rtol=1e-5)
        for opt, p in ((optimizer, pull), (other, pull.double())):
            opt.zero_grad()
            values = linear.weight if opt is optimizer else reference.quantized()
            (values * p).sum().backward()
            opt.step()
        after = weights.scales["weight"].double() * UNIT[element]
        torch.testing.assert_close(after.flatten(), reference.s.detach().flatten(), rtol=1e-5, atol=1e-7)
        close = {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(
            weights.masters["weight"].double().flatten(), reference.w.detach().flatten(), **close
        )
        moved = max(moved, float((after / before - 1).abs().max()))
        stopped += int((reference.w.grad == 0).sum())
    assert moved > 1e-4 and stopped > 0  # scales did move, and some weights were beyond the levels


def test_a_resumed_walk_is_the_same_bit_for_bit_and_so_is_a_copys() -> None:
    torch.manual_seed(0)

    def made() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
        optimizer = optimizers("adamw", model.parameters())
        return model, optimizer, lpt.attach_weights_(model, optimizer, "int4_hyst", format=None, scaling="lsq")

    def run(model: nn.Module, optimizer: torch.optim.Optimizer, pulls: list[Tensor]) -> None:
        for pull in pulls:
            optimizer.zero_grad()
            (model(pull) ** 2).sum().backward()
            optimizer.step()

    with pytest.raises(ValueError, match="scaling=lsq trains scales that are real numbers, and those of int4 are not"):
        made()

    def again() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
        optimizer = optimizers("adamw", model.parameters())
        weights = lpt.attach_weights_(model, optimizer, "hysteresis", format="int4/sample/fp32", scaling="lsq")
        return model, optimizer, weights

    pulls = walk((16, 8), 8)
    model, optimizer, weights = again()
    run(model, optimizer, pulls[:4])
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), weights.state_dict()))
    run(model, optimizer, pulls[4:])
    other, second, others = again()
    others.load_state_dict(saved[2])  # before the optimizer has seen anything, as Lightning does
    other.load_state_dict(saved[0])
    second.load_state_dict(saved[1])
    resaved = others.state_dict()["learned"]
    assert resaved.keys() == saved[2]["learned"].keys() == {"0.weight", "1.weight"}
    run(other, second, pulls[4:])
    for name in ("0.weight", "1.weight"):
        assert others.scales[name].equal(weights.scales[name])
        assert others.masters[name].equal(weights.masters[name])
    assert not weights.scales["0.weight"].equal(saved[2]["scales"]["0.weight"])
    copied = copy.deepcopy(model)
    assert copied.state_dict()["0.weight"].equal(model.state_dict()["0.weight"])


def test_what_others_write_is_taken_over_at_the_trained_scale() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(8, 4, bias=False)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    weights = lpt.attach_weights_(linear, optimizer, "int4/tensor/fp32", scaling="lsq")
    linear(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    scale = weights.scales["weight"].clone()
    with torch.no_grad():
        linear.weight[0, 0] = 10.0
    weights.follow()
    assert weights.scales["weight"].equal(scale)
    assert linear.weight[0, 0].item() == pytest.approx(1.75 * scale.item())  # saturated: no amax is taken
    with weights.averaged({"weight": torch.full((4, 8), 0.3 * scale.item())}):
        assert linear.weight.unique().tolist() == pytest.approx([0.25 * scale.item()])


@pytest.mark.parametrize("format", ["log4", "mxfp4", "nvfp4", "int4/tensor/fp32/pow2", "int4/tensor/fp32/inverse"])
def test_scales_that_are_no_real_numbers_are_refused(format: str) -> None:
    with pytest.raises(ValueError, match="give a format with such scales, int4/tensor/fp32"):
        lpt.QuantizedWeights(nn.Linear(2, 2), format, scaling="lsq")
