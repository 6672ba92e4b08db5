"""Each 4-bit recipe, and HALO: one layer, three steps: forward, both gradients and the update, from the rules alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

import lpt
from lpt.dataflow.slots import PRODUCTS, SLOTS
from lpt.formats.noise import uniform
from lpt.runs.messages import CONF
from lpt.runs.parts import make_quantization

from .by_hand import (
    E2M1,
    E4M3,
    Array,
    Draws,
    back,
    cut,
    e8m0,
    fitting,
    hadamard,
    largest,
    nearest,
    nvfp4,
    over,
    stochastic,
    tiles,
    turn,
)  # fmt: skip

Step = tuple[Array, Array, Array]  # y, dx, dw
Reference = Callable[[Array, Array, Array, Draws], Step]
TOKENS, IN, OUT, RATE = 128, 64, 48, 0.05
TE_SIGNS = np.array([1, 1, 1, -1, 1, -1, -1, -1, -1, -1, -1, 1, -1, 1, -1, -1.0])


def rtn(x: Array, scale: Array) -> Array:
    return nearest(x / scale, E2M1) * scale


def sr(x: Array, scale: Array, draws: Draws, slot: str, turned: bool = False) -> Array:
    """`turned`: x is the operand's transpose, and random numbers lie as in the operand."""
    u = draws.uniform(slot, x.shape[::-1]).T if turned else draws.uniform(slot, x.shape)
    return stochastic(x / scale, E2M1, u) * scale


# -- one reference a recipe ------------------------------------------------------------------------------------


def ref_nvfp4(x: Array, w: Array, e: Array, draws: Draws) -> Step:
    q = rtn(w, tiles(w, nvfp4))
    y = rtn(x, nvfp4(x)) @ q.T
    dx = sr(e, nvfp4(e), draws, "dgrad_e") @ q
    et, xt = (turn(t.T, 16, TE_SIGNS) for t in (e, x))  # along the tokens
    return y, dx, sr(et, nvfp4(et), draws, "wgrad_e", True) @ rtn(xt, nvfp4(xt)).T


def four_six(x: Array, headroom: float = 1, shape: Callable[..., Array] = lambda x, rule: rule(x)) -> Array:
    """The better of amax at 6 and at 4, a block or a tile at a time, by the squared error of nearest rounding."""
    high, whole = 6 / headroom, np.abs(x).max()
    unit = whole / (256 * high)
    six, four = (
        shape(x, lambda t, more=more: over(nearest(more * largest(t, 16) / high / unit, E4M3) * unit, 16, t))
        for more in (1, 1.5)
    )
    square = 16 if shape is tiles else 1
    blocks = (len(x) // square, square, x.shape[1] // 16, 16)
    errors = [((rtn(x, s) - x) ** 2).reshape(blocks).sum((1, 3), keepdims=True) for s in (six, four)]
    better = np.broadcast_to(errors[1] < errors[0], blocks).reshape(x.shape)
    return np.where(better, four, six)


def ref_nvfp4_four_over_six(x: Array, w: Array, e: Array, draws: Draws) -> Step:
    q = rtn(w, four_six(w, shape=tiles))
    y = rtn(x, four_six(x)) @ q.T
    dx = sr(e, four_six(e, 17 / 16), draws, "dgrad_e") @ q
    et, xt = (turn(t.T, 16, TE_SIGNS) for t in (e, x))
    return y, dx, sr(et, four_six(et, 17 / 16), draws, "wgrad_e", True) @ rtn(xt, four_six(xt)).T


def ref_fp4_all_the_way(x: Array, w: Array, e: Array, draws: Draws) -> Step:
    y = rtn(x, nvfp4(x)) @ rtn(w, nvfp4(w)).T
    dx = sr(e, nvfp4(e), draws, "dgrad_e") @ rtn(w.T, nvfp4(w.T)).T
    dw = sr(e.T, nvfp4(e.T), draws, "wgrad_e", True) @ sr(x.T, nvfp4(x.T), draws, "wgrad_x", True).T
    return y, dx, dw


def ref_tetrajet(x: Array, w: Array, e: Array, draws: Draws) -> Step:
    qx, qw = rtn(x, e8m0(x)), rtn(w, e8m0(w))
    dx = sr(e, e8m0(e), draws, "dgrad_e") @ sr(qw.T, e8m0(qw.T), draws, "dgrad_w", True).T
    dw = sr(e.T, e8m0(e.T), draws, "wgrad_e", True) @ sr(qx.T, e8m0(qx.T), draws, "wgrad_x", True).T
    return qx @ qw.T, dx, dw


def ref_tetrajet_v2(x: Array, w: Array, e: Array, draws: Draws) -> Step:
    def scales(t: Array) -> Array:  # each 128 elements of a row as if they were a tensor
        parts = [t[i : i + 1, j : j + 128] for i in range(len(t)) for j in range(0, t.shape[1], 128)]
        return np.concatenate([nvfp4(part)[0] for part in parts]).reshape(t.shape)

    qx, qw = rtn(x, scales(x)), rtn(w, scales(w))
    d, g = draws.signs("dgrad", 16), draws.signs("wgrad", 16)
    eh, wh = turn(e, 16, d), turn(qw.T, 16, d)
    et, xt = turn(e.T, 16, g), turn(qx.T, 16, g)
    dx = sr(eh, scales(eh), draws, "dgrad_e") @ sr(wh, scales(wh), draws, "dgrad_w", True).T
    dw = sr(et, scales(et), draws, "wgrad_e", True) @ sr(xt, scales(xt), draws, "wgrad_x", True).T
    return qx @ qw.T, dx, dw


def ref_quartet(x: Array, w: Array, e: Array, draws: Draws) -> Step:
    def forward(t: Array) -> tuple[Array, Array]:
        """In the transformed domain: the rounded operand, and where its gradient passes."""
        h = turn(t, 32)
        s = over(2 ** np.floor(np.log2(2.92247856 / 6 * cut(h, 32).std(-1) + 1e-8)), 32, h)
        return rtn(h, s), np.abs(h / s) < 6

    def backward(t: Array, slot: str, flipped: bool) -> Array:
        size = fitting(t.shape[1], 32)  # of the 48 outputs: 16
        h = turn(t, size, draws.signs(slot[:5], 32))
        s = over(2 ** (np.floor(np.log2(largest(h, 32))) - 2) * 4 / 3, 32, h)
        assert (np.abs(h / s) < 6).all()
        return sr(h, s, draws, slot, flipped)

    (qx, keep_x), (qw, keep_w) = forward(x), forward(w)
    dx = backward(e, "dgrad_e", False) @ backward(qw.T, "dgrad_w", True).T
    dw = backward(e.T, "wgrad_e", True) @ backward(qx.T, "wgrad_x", True).T
    return qx @ qw.T, back(dx * keep_x, 32), back(dw * keep_w, 32)


def ref_quartet2(x: Array, w: Array, e: Array, draws: Draws) -> Step:
    def eden(t: Array, slot: str) -> Array:
        size = fitting(t.shape[1], 128)  # of the 48 outputs 16, of 128 tokens 128
        h = turn(t, size, draws.signs(slot[:5], 128))
        high = 6 / (17 / 16 * 0.93)
        unit = np.abs(h).max() / (255.99 * high)
        b = nearest(largest(h, 16) / high / unit, E4M3)
        y = h / over(b * unit, 16, h)
        q = nearest(y, E2M1)
        factor = (cut(y, size) ** 2).sum(-1) / (cut(y, size) * cut(q, size)).sum(-1)
        b = stochastic(b * over(factor, size // 16, b), E4M3, draws.uniform(slot, b.shape))
        return q * over(b * unit, 16, h)

    qx, qw = rtn(x, four_six(x)), rtn(w, four_six(w))
    dx = eden(e, "dgrad_e") @ eden(qw.T, "dgrad_w").T
    return qx @ qw.T, dx, eden(e.T, "wgrad_e") @ eden(qx.T, "wgrad_x").T


def ref_quest(x: Array, w: Array, e: Array, draws: Draws) -> Step:
    def forward(t: Array) -> tuple[Array, Array]:
        h = turn(t, fitting(t.shape[1], 128))
        s = 2.514 * np.sqrt((h**2).mean(-1, keepdims=True)) + 1e-8
        step = 2 * s / 15
        q = np.round(h.clip(-s, s) / step + 0.5) * step - step / 2
        return q, np.abs(q - h) <= s / 15

    (qx, keep_x), (qw, keep_w) = forward(x), forward(w)
    return qx @ qw.T, back((e @ qw) * keep_x, 64), back((e.T @ qx) * keep_w, 64)


def ref_halo(x: Array, w: Array, e: Array, draws: Draws) -> Step:
    def q(t: Array) -> Array:
        s = np.abs(t).max() / 127
        return np.round(t / s) * s

    y = q(turn(x, 64)) @ q(turn(w, 64)).T
    dx = back((q(turn(e.T, 128)).T @ q(w)).T, 128).T  # over the 128 tokens
    return y, dx, q(e).T @ q(x)


REFERENCES: dict[str, Reference] = {
    "nvfp4": ref_nvfp4,
    "nvfp4_four_over_six": ref_nvfp4_four_over_six,
    "fp4_all_the_way": ref_fp4_all_the_way,
    "tetrajet": ref_tetrajet,
    "tetrajet_v2": ref_tetrajet_v2,
    "quartet": ref_quartet,
    "quartet2": ref_quartet2,
    "quest": ref_quest,
    "halo": ref_halo,
}


# -- against the engine ----------------------------------------------------------------------------------------


def products(recipe: str, **changed: object) -> lpt.Products:
    """What `recipe=` makes, its one layer not left out."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[f"recipe={recipe}"])
    alone = {"first": True, "last": True, "skip_last": 0, **changed}
    return replace(make_quantization(cfg).make_products, **alone)  # type: ignore[arg-type]


def drawn(handle: lpt.dataflow.attach_products.Multiplied) -> Draws:
    """What the layer will draw in its next run."""
    product = handle.rounding[""].product
    uses = (*SLOTS, *PRODUCTS)

    def numbers(use: str, shape: tuple[int, ...]) -> Tensor:
        assert product.keys is not None
        key, slot = (product.keys + product.calls + 1)[uses.index(use)], product.slots.get(use)
        if use != "dgrad_e" or slot is None or slot.turn is not None:
            return uniform(torch.empty(shape), key)
        (size,) = slot.grid.block  # type: ignore[misc]  # a shorter last block is filled up, and that counts
        return uniform(torch.empty(shape[0], shape[1] + -shape[1] % size), key)[:, : shape[1]]

    return Draws(lambda slot, shape: numbers(slot, shape).double().numpy(),
                 lambda product, size: np.where(numbers(product, (size,)).numpy() < 0.5, -1.0, 1.0))  # fmt: skip


def operands(step: int) -> tuple[Tensor, Tensor]:
    """Activations with some large channels, and errors of any size."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(TOKENS, IN, generator=generator) * torch.exp2(torch.arange(IN) % 7 / 2.0)
    return x, torch.randn(TOKENS, OUT, generator=generator) * 2.0**-12 * (1 + torch.arange(OUT) % 5)


@pytest.mark.parametrize("recipe", REFERENCES)
def test_three_steps_of_a_layer(recipe: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(IN, OUT, bias=False)
    handle = lpt.attach_products_(layer, products(recipe))
    optimizer = torch.optim.SGD(layer.parameters(), RATE)
    master = layer.weight.detach().double().numpy().copy()
    for step in range(3):
        x, e = operands(step)
        wanted = REFERENCES[recipe](x.double().numpy(), master, e.double().numpy(), drawn(handle))
        x.requires_grad_()
        optimizer.zero_grad()
        y = layer(x)
        y.backward(e)
        assert x.grad is not None and layer.weight.grad is not None
        for name, got, want in zip(("y", "dx", "dw"), (y.detach(), x.grad, layer.weight.grad), wanted, strict=True):
            np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=2e-6 * np.abs(want).max(), err_msg=name)
            plain = {"y": x.detach() @ torch.tensor(master).float().t(), "dx": e @ torch.tensor(master).float(),
                     "dw": e.t() @ x.detach()}[name]  # fmt: skip
            error = (got - plain).norm() / plain.norm()
            assert 0.002 < error < 0.6, f"{name} is not what rounding to 4 bits gives: {error}"
        optimizer.step()
        master = (master - RATE * wanted[2]).astype(np.float32).astype(np.float64)
        np.testing.assert_allclose(layer.weight.detach().numpy(), master, rtol=1e-5, atol=1e-7)
        master = layer.weight.detach().double().numpy().copy()


@pytest.mark.parametrize("recipe", ["tetrajet", "fp4_all_the_way", "tetrajet_v2", "quartet", "quartet2"])
def test_gradients_are_right_on_the_mean(recipe: str) -> None:
    """Over the random bits: of what the forward product used, where a recipe takes that."""
    torch.manual_seed(0)
    layer = nn.Linear(32, 16, bias=False)
    straight = products(recipe)
    handle = lpt.attach_products_(layer, straight)
    generator = torch.Generator().manual_seed(1)
    x, e = torch.randn(32, 32, generator=generator), torch.randn(32, 16, generator=generator)
    found = []
    for _ in range(100):
        layer.weight.grad = None
        layer(x).backward(e)
        found.append(layer.weight.grad.double())
    product = handle.rounding[""].product
    qx = product.used(product.kind, "x", product.operand(product.kind, "x", x, None), None)
    qx = x if recipe == "fp4_all_the_way" else qx
    exact = e.double().t() @ qx.double()
    if (passing := product.passing(product.kind, "w", layer.weight, None)) is not None:
        h = torch.tensor(hadamard(32))
        exact = ((exact @ h) * passing) @ h
    all_of_them = torch.stack(found)
    error = all_of_them.mean(0) - exact
    spread = all_of_them.std(0) / len(found) ** 0.5
    clipped = 0.02 if recipe in ("fp4_all_the_way", "tetrajet_v2", "quartet2") else 0.0  # E4M3 may round a scale down
    assert (error.abs() <= 5 * spread + clipped * exact.abs().max()).all()
    assert error.norm() < 0.25 * (all_of_them[0] - exact).norm()


def test_phases_and_what_is_left_out() -> None:
    """The last 18 % forward in full precision; QAF: both gradients."""
    layer = nn.Linear(IN, OUT, bias=False)
    x, e = operands(0)
    x.requires_grad_()
    handle = lpt.attach_products_(layer, products("nvfp4", phases=[{"start": 0.82, "full": ["forward"]}]))
    handle.advance(0.81)
    assert not layer(x).equal(x @ layer.weight.t())
    handle.advance(0.82)
    y = layer(x)
    assert y.equal(x @ layer.weight.t()) and "nvfp4" in handle.report()
    dx, dw = torch.autograd.grad(y, (x, layer.weight), e)
    assert not dx.equal(e @ layer.weight) and not dw.equal(e.t() @ x)
    handle.remove()
    handle = lpt.attach_products_(layer, products("quartet", phases=[{"start": 0.5, "full": ["dgrad", "wgrad"]}]))
    handle.advance(1.0)
    dx, dw = torch.autograd.grad(layer(x), (x, layer.weight), e)
    clips = handle.rounding[""].product.passing(handle.rounding[""].product.kind, "x", x, None)
    assert clips is not None and not clips.all()
    h = torch.tensor(hadamard(32)).float()
    wanted = ((e @ layer.weight).unflatten(1, (2, 32)) @ h).flatten(1) * clips
    torch.testing.assert_close(dx, (wanted.unflatten(1, (2, 32)) @ h).flatten(1), rtol=1e-4, atol=1e-8)
    handle.remove()
    net = nn.Sequential(*(nn.Linear(16, 16) for _ in range(12)))
    ends = {"last": False, "first": "unembedded"}
    left = lpt.attach_products_(net, replace(products("nvfp4"), **ends, skip_last=0.15)).left_out
    assert {*left} == {"0", "11", "9", "10"}
    embedded = nn.Sequential(nn.Embedding(4, 16), nn.Linear(16, 16), lpt.ops.MatMul(), nn.Linear(16, 16))
    left = lpt.attach_products_(embedded, replace(products("tetrajet"), **ends)).left_out
    assert {*left} == {"2", "3"} and "kinds" in left["2"]
