"""Each 8-bit and weight-only recipe, step by step: one layer's three products and its next weight by `rules`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from running import ROOT
from torch import Tensor, nn

import lpt
from lpt.dataflow import attach_products_
from lpt.dataflow.product import _USES
from lpt.formats.noise import uniform
from lpt.runs.parts import make_quantization, parametrize_

from . import rules

LR, TOKENS, STEPS = 0.125, 40, 3


@cache
def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", overrides=[*overrides])


class Net(nn.Module):
    """Three layers; the second is looked at, since some recipes leave the first and the last alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.own, self.last = nn.Linear(16, 64), nn.Linear(64, 48), nn.Linear(48, 8)
        self.x = self.y = torch.empty(0)
        self.positive = False
        self.sizes = torch.logspace(-4, 0, 64)  # so that what underflows along one dimension does not along another

    def forward(self, t: Tensor) -> Tensor:
        self.x = (self.first(t).abs() if self.positive else self.first(t)) * self.sizes
        self.x.retain_grad()
        self.y = self.own(self.x)
        self.y.retain_grad()
        return self.last(self.y)


class Trained:
    """A recipe on Net; `step` trains it once and shows what one layer saw."""

    def __init__(self, recipe: str, momentum: float = 0.0) -> None:
        cfg = composed(f"recipe={recipe}")
        made = make_quantization(cfg)
        torch.manual_seed(0)
        self.model = Net()
        parametrize_(self.model, cfg)
        self.flow = lpt.attach_(self.model, made.make_flow)
        self.products = attach_products_(self.model, made.make_products) if made.make_products.asked else None
        self.weights = made.make_weights(self.model)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LR, momentum=momentum)
        self.steps = 0
        self.weight = next((w for w in self.weights._members.weights if w.name == "own.weight"), None)

    def u(self, slot: str, like: Tensor) -> Tensor:
        """The random numbers of a slot in the last pass."""
        assert self.products is not None
        product = self.products.rounding["own"].product
        assert product.keys is not None
        return uniform(like, product.keys[_USES.index(slot)] + product.calls)

    def v(self, use: str, like: Tensor) -> Tensor:
        """The random numbers of a use of the weight at present."""
        assert self.weight is not None
        return uniform(like, self.weights._key(self.weight, use))

    @property
    def master(self) -> Tensor:
        own = self.model.own.weight if self.weight is None else self.weight.master
        return own.detach().clone()

    @property
    def gradient(self) -> Tensor | None:
        """Of the weight; where a shift and a sign stand for it, the sign's is the same."""
        own: Any = self.model.own
        return own.weight.grad if "weight" in own._parameters else own.parametrizations.weight.original1.grad

    def step(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.steps)
        self.steps += 1
        model = self.model
        model.positive = self.steps % 2 == 0
        self.optimizer.zero_grad()
        w, before = model.own.weight.detach().clone(), self.master
        gain = (1.0, 0.25, 0.5, 2.0)[self.steps - 1]  # so that the largest value so far is not the last one
        out = model(gain * torch.randn(TOKENS, 16, generator=generator))
        (out * torch.randn(out.shape, generator=generator)).sum().backward()
        e = model.y.grad
        assert e is not None and model.x.grad is not None
        saw = {"x": model.x, "w": w, "e": e, "y": model.y - model.own.bias, "dx": model.x.grad, "before": before}
        saw = {key: t.detach().clone() for key, t in saw.items()}
        dw = self.gradient
        assert dw is not None
        saw["dw"] = dw.clone()
        saw["v"] = self.v("gradient", w) if self.weight is not None else w
        self.flow.step()
        self.weights.swap_in(self.optimizer)
        self.optimizer.step()
        self.weights.update(self.optimizer)
        return saw


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=2e-6 * float(b.abs().max()))


def proven(run: Trained, saw: dict[str, Tensor], q: dict[str, Tensor]) -> None:
    """The three products of operands by slot; a slot left out is what shares its tensor."""
    q = {"dgrad_w": q["w"], "wgrad_x": q["x"], "wgrad_e": q["dgrad_e"], **q}
    q = {slot: t.double() for slot, t in q.items()}
    same(saw["y"], q["x"] @ q["w"].T)
    same(saw["dx"], q["dgrad_e"] @ q["dgrad_w"])
    same(saw["dw"], q["wgrad_e"].T @ q["wgrad_x"])


def along(x: Tensor, n: int, dim: int, rule: rules.Block) -> Tensor:
    return rules.by_blocks(x, 1, n, rule) if dim else rules.by_blocks(x.T, 1, n, rule).T


def blocks(n: int, rule: rules.Block) -> Callable[[Trained, dict[str, Tensor]], dict[str, Tensor]]:
    def operands(run: Trained, saw: dict[str, Tensor]) -> dict[str, Tensor]:
        x, w, e = saw["x"], saw["w"], saw["e"]
        return {
            "x": along(x, n, 1, rule), "w": along(w, n, 1, rule), "dgrad_e": along(e, n, 1, rule),
            "dgrad_w": along(w, n, 0, rule), "wgrad_e": along(e, n, 0, rule), "wgrad_x": along(x, n, 0, rule),
        }  # fmt: skip

    return operands


def tiles(exponent: int, mantissa: int, e_exponent: int, e_mantissa: int) -> Any:
    def operands(run: Trained, saw: dict[str, Tensor]) -> dict[str, Tensor]:
        own, error = rules.block_minifloat(exponent, mantissa), rules.block_minifloat(e_exponent, e_mantissa)
        kinds = {"x": (saw["x"], own), "w": (saw["w"], own), "dgrad_e": (saw["e"], error)}
        return {slot: rules.by_blocks(t, 48, 48, rule, run.u(slot, t)) for slot, (t, rule) in kinds.items()}

    return operands


def deepseek(run: Trained, saw: dict[str, Tensor]) -> dict[str, Tensor]:
    x = along(saw["x"], 128, 1, rules.mx_rceil)
    return {
        "x": x, "w": rules.by_blocks(saw["w"], 128, 128, rules.by_amax),
        "dgrad_e": along(saw["e"], 128, 1, rules.by_amax), "wgrad_e": along(saw["e"], 128, 0, rules.by_amax),
        "wgrad_x": along(x.float(), 128, 0, rules.mx_rceil),
    }  # fmt: skip


def te_current(run: Trained, saw: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"x": rules.te(saw["x"], 448), "w": rules.te(saw["w"], 448), "dgrad_e": rules.te(saw["e"], 57344)}


class TeDelayed:
    def __init__(self) -> None:
        self.seen: dict[str, list[Tensor]] = {"x": [], "w": [], "dgrad_e": []}

    def __call__(self, run: Trained, saw: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for slot, (t, high) in {"x": (saw["x"], 448), "w": (saw["w"], 448), "dgrad_e": (saw["e"], 57344)}.items():
            seen = self.seen[slot]
            factor = torch.tensor(float(high)) / torch.stack(seen).max() if seen else torch.tensor(1.0)
            found[slot] = rules.te(t, high, factor)
            seen.append(t.abs().max())
        return found


def s2fp8(run: Trained, saw: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"x": rules.squeezed(saw["x"]), "w": rules.squeezed(saw["w"]), "dgrad_e": rules.squeezed(saw["e"])}


def luq(run: Trained, saw: dict[str, Tensor]) -> dict[str, Tensor]:
    x, e = rules.sawb(saw["x"], run.model.positive), rules.luq(saw["e"], run.u("dgrad_e", saw["e"]))
    return {"x": x, "w": rules.sawb(saw["w"], False), "dgrad_e": e}


PLAIN: dict[str, Callable[[], Any]] = {
    "mxfp8": lambda: blocks(32, rules.mx_rceil),
    "mx_microxcaling": lambda: blocks(32, rules.mx_floor_away),
    "bm8": lambda: tiles(2, 5, 4, 3),
    "bm6": lambda: tiles(2, 3, 3, 2),
    "bm5": lambda: tiles(2, 2, 3, 1),
    "bm4": lambda: tiles(2, 1, 3, 0),
    "deepseek_fp8": lambda: deepseek,
    "te_current": lambda: te_current,
    "te_delayed": TeDelayed,
    "s2fp8": lambda: s2fp8,
    "luq": lambda: luq,
}


@pytest.mark.parametrize("recipe", PLAIN)
def test_recipes_over_fp32_masters(recipe: str) -> None:
    run, operands = Trained(recipe), PLAIN[recipe]()
    for _ in range(STEPS):
        saw = run.step()
        proven(run, saw, operands(run, saw))
        assert run.model.own.weight.detach().equal(saw["w"] - LR * saw["dw"])


def test_hbfp8() -> None:
    run, narrow, wide = Trained("hbfp8"), rules.bfp(8), rules.bfp(16)
    w = run.model.own.weight.detach().clone()
    for _ in range(STEPS):
        saw = run.step()
        x = rules.by_blocks(saw["x"], 1, 64, narrow, run.u("x", saw["x"]))
        e = rules.by_blocks(saw["e"], 1, 48, narrow, run.u("dgrad_e", saw["e"]))
        assert saw["w"].equal(w)
        proven(run, saw, {"x": x, "w": w, "dgrad_e": e})
        left = saw["before"] - LR * saw["dw"]
        w = rules.by_blocks(left, 24, 24, narrow, run.v("quantized", left)).float()
        assert run.model.own.weight.detach().equal(w)
        assert run.master.equal(rules.by_blocks(left, 24, 24, wide, run.v("master", left)).float())


def test_swalp() -> None:
    run, momentum = Trained("swalp", 0.5), torch.zeros(48, 64)
    for _ in range(STEPS):
        saw = run.step()
        assert saw["w"].equal(saw["before"])  # there is no other master
        x, e = rules.swalp(saw["x"], run.u("x", saw["x"])), rules.swalp(saw["e"], run.u("dgrad_e", saw["e"]))
        proven(run, saw, {"x": x, "w": saw["w"], "dgrad_e": e})
        gradient = rules.by_blocks(saw["dw"], 1, 64, rules.swalp, saw["v"]).float()
        momentum = 0.5 * momentum + gradient
        left = saw["w"] - LR * momentum
        w = rules.by_blocks(left, 1, 64, rules.swalp, run.v("quantized", left)).float()
        assert run.model.own.weight.detach().equal(w) and run.master.equal(w)
        momentum = rules.by_blocks(momentum, 1, 64, rules.swalp, run.v("momentum_buffer", left)).float()
        assert run.optimizer.state[run.model.own.weight]["momentum_buffer"].equal(momentum)


def test_hfp8() -> None:
    run = Trained("hfp8")
    for _ in range(STEPS):
        saw = run.step()
        proven(run, saw, {"x": rules.fp143(saw["x"], 4), "w": saw["w"], "dgrad_e": rules.fp152(saw["e"], 6)})
        left = saw["before"] - LR * rules.fp169(saw["dw"]).float()
        w = rules.fp143(left, 4).float()
        assert run.model.own.weight.detach().equal(w)
        assert run.master.equal(w + rules.fp169(left - w).float())


def test_deepshift_q() -> None:
    run = Trained("deepshift_q")
    for _ in range(STEPS):
        saw = run.step()
        proven(run, saw, {"x": (saw["x"].double() * 65536).floor() / 65536, "w": saw["w"], "dgrad_e": saw["e"]})
        left = saw["before"] - LR * saw["dw"]
        left = torch.where(left == 0, left, left.sign() * left.abs().clamp(2.0**-7, 1))
        assert run.master.equal(left)
        assert run.model.own.weight.detach().equal(rules.shifted(left).float())


def test_unit_scaling() -> None:
    run = Trained("unit_scaling")
    own = run.model.own
    assert abs(own.weight.std() - 1) < 0.05 and not own.bias.any()
    for _ in range(STEPS):
        bias = own.bias.detach().clone()
        saw = run.step()
        x, w = (rules.fp143(saw[t], 7, run.u(t, saw[t])) for t in ("x", "w"))
        e = rules.fp152(saw["e"], 15, run.u("dgrad_e", saw["e"]))
        same(saw["y"] + bias, (x @ w.T + bias) / 8)  # 64 in-features
        same(saw["dx"], e @ w / 8)
        same(saw["dw"], e.T @ x / TOKENS**0.5)
        assert own.weight.detach().equal(saw["w"] - LR * saw["dw"])
        same(own.bias.detach(), bias - LR * saw["e"].sum(0) / TOKENS**0.5)


def test_deepshift_ps() -> None:
    run = Trained("deepshift_ps")
    own: Any = run.model.own.parametrizations.weight  # type: ignore[union-attr, index]
    shift, sign = own.original0.detach().clone(), own.original1.detach().clone()
    assert shift.min() < -5.9 and shift.max() > -0.1 and sign.min() < -0.98 and sign.max() > 0.98
    for _ in range(STEPS):
        saw = run.step()
        w = torch.where(sign.abs() > 0.5, sign.sign() * 2.0 ** shift.round(), 0.0)
        proven(run, saw, {"x": (saw["x"].double() * 65536).floor() / 65536, "w": w, "dgrad_e": saw["e"]})
        dw = saw["e"].double().T @ ((saw["x"].double() * 65536).floor() / 65536)
        shift = (shift - LR * dw * w * math.log(2)).clamp(-6, 0)
        sign = sign - LR * dw
        assert run.model.own.weight.unique().numel() <= 15
        same(own.original0.detach(), shift)
        same(own.original1.detach(), sign)
        shift, sign = own.original0.detach().clone(), own.original1.detach().clone()


def test_fp8_seb_cannot_be_told_from_tracked_fp143() -> None:
    tracked = ("weights.granularity=tensor", "weights.scaling=tracked")
    assert composed("recipe=fp8_seb") == composed("format=fp143", "weights=fp143", *tracked)


@pytest.mark.parametrize(
    "recipe", ["te_delayed", "hbfp8", "swalp", "hfp8", "deepshift_q", "bm8", "unit_scaling", "deepshift_ps"]
)
def test_a_run_goes_on_bit_for_bit(recipe: str) -> None:
    whole, first, second = (Trained(recipe, 0.5 if recipe == "swalp" else 0.0) for _ in range(3))
    for _ in range(4):
        whole.step()
    for _ in range(2):
        first.step()
    second.model.load_state_dict(first.model.state_dict())
    second.weights.load_state_dict(first.weights.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.flow.load_state_dict(first.flow.state_dict())
    assert first.products is not None and second.products is not None
    second.products.load_state_dict(first.products.state_dict())
    second.steps = 2
    for _ in range(2):
        second.step()
    assert second.master.equal(whole.master) and second.model.own.weight.equal(whole.model.own.weight)
