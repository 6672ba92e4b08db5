"""The hysteresis rule against a plain oracle on random walks with moving scales; the masters' life around a step."""

import copy
import pickle
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import convolutional, images
from torch import nn

import lpt
from lpt.weights import Hysteresis, Nearest, Stochastic, hysteresis, nearest, scheme

FORMATS = ["log4", "int3", "int4", "int8", "int4_full", "fp134", "log2", "int2", "posit8_1", "fp123"]


def grid(name: str, scale: int) -> list[Fraction]:
    return [Fraction(v) * Fraction(2) ** scale for v in lpt.formats.get(name).values().tolist()]


def neighbours(levels: list[Fraction], w: Fraction) -> tuple[Fraction, Fraction]:
    """The levels at or below, and at or above w; saturated."""
    below = [v for v in levels if v <= w] or levels[:1]
    above = [v for v in levels if v >= w] or levels[-1:]
    return below[-1], above[0]


def expected(name: str, w: float, previous: float, scale: int, width: Fraction) -> Fraction:
    w_, prev = Fraction(w), Fraction(previous)
    low, high = neighbours(grid(name, scale), w_)
    if low == high:
        return low
    if w_ >= prev:
        return high if w_ >= low + (1 + width) / 2 * (high - low) else low
    return low if w_ <= high - (1 + width) / 2 * (high - low) else high


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(FORMATS),
    width=st.sampled_from([0.25, 0.5, 0.75, 1.0]),
    start=st.floats(-4, 4, width=32),
    moves=st.lists(st.tuples(st.floats(-1, 1, width=32), st.integers(-1, 1)), min_size=1, max_size=25),
)
def test_hysteresis_follows_the_oracle_on_walks_with_moving_scales(name, width, start, moves):
    scale = 1
    w = torch.tensor([start])
    q = nearest(w, name, scale)
    for step, move in moves:
        scale += move
        w = w + torch.tensor([step])
        wanted = expected(name, w.item(), q.item(), scale, Fraction(width))
        q = hysteresis(w, q, name, torch.tensor(scale), width)
        assert Fraction(q.item()) == wanted


@pytest.mark.parametrize("name", FORMATS)
def test_the_papers_rule_is_floor_or_ceil(name):
    generator = torch.Generator().manual_seed(0)
    format = lpt.formats.get(name)
    master = torch.randn(20000, generator=generator)
    previous = nearest(master + 0.3 * torch.randn(20000, generator=generator), name, 0)
    wanted = torch.where(master >= previous, format.floor(master, 0), format.ceil(master, 0))
    assert torch.equal(hysteresis(master, previous, name, 0), wanted)


@pytest.mark.parametrize("name", FORMATS)
def test_width_0_is_rounding_to_nearest_ties_included(name):
    levels = lpt.formats.get(name).values()
    points = torch.cat([levels, (levels[1:] + levels[:-1]) / 2]).float()
    master = torch.cat([points, torch.nextafter(points, points + 1), torch.nextafter(points, points - 1)])
    for previous in (master.roll(1), -master, torch.zeros_like(master)):
        assert torch.equal(hysteresis(master, previous, name, 0, width=0.0), nearest(master, name, 0))


def test_a_weight_on_its_level_stays_and_one_that_travels_a_whole_step_moves():
    q = torch.tensor([0.0])
    path = [0.9, 0.99, 1.0, 0.5, 0.1, 0.01, 0.0, -0.5, -1.0]  # int3 at scale 1: steps of 1
    got = []
    for w in path:
        q = hysteresis(torch.tensor([w]), q, "int3", 1)
        got.append(q.item())
    assert got == [0, 0, 1, 1, 1, 1, 0, 0, -1]


def test_flicker_of_nearest_and_its_absence_with_hysteresis():
    """A master that dithers around a midpoint flips at each step under rounding, never under hysteresis."""
    masters = [torch.tensor([0.5 + 0.01 * (-1) ** t]) for t in range(20)]
    for rule, flips in ((Nearest("int3"), 19), (Hysteresis("int3"), 0)):
        q, count = rule.format.round(masters[0], 1), 0
        for w in masters[1:]:
            new = rule(w, q, torch.tensor(1), None)
            count += int((new != q).item())
            q = new
        assert count == flips


def test_scheme_names():
    assert isinstance(scheme("int8"), Nearest)
    assert isinstance(scheme("log4_hyst"), Hysteresis) and scheme("log4_hyst").width == 1
    assert isinstance(scheme("fp134_sr"), Stochastic)
    assert scheme("int8_full_hyst").format.name == "int8_full"
    custom = scheme("hysteresis", format=[4, 3, 2, 1], width=0.5)
    assert custom.format.name == "int5" and custom.width == 0.5
    assert scheme(custom) is custom


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("log5_hyst",), "log4"),
        (("int1",), "int"),
        (("hysteresis_hyst",), "unknown weight scheme"),
        (("sometimes", "int8"), "nearest, stochastic, hysteresis"),
        (("hysteresis", "int8", 1.5), "width=1.5"),
        (("nearest", "int8", 0.5), "leave width out"),
    ],
)
def test_wrong_schemes_are_told(arguments, told):
    with pytest.raises(ValueError, match=told):
        scheme(*arguments)


def trained(spec="log4_hyst", optimizer="SGD", steps=4, seed=0, **options):
    model = convolutional()
    kinds = {"SGD": {"lr": 0.1, "momentum": 0.9}, "Adam": {"lr": 0.01}, "AdamW": {"lr": 0.01}}
    opt = getattr(torch.optim, optimizer)(model.parameters(), weight_decay=1e-2, **kinds[optimizer])
    weights = lpt.attach_weights_(model, opt, spec, seed=seed, **options)
    for step in range(steps):
        one_step(model, opt, step)
    return model, opt, weights


def one_step(model, opt, step):
    x, y = images(seed=step)
    opt.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    opt.step()


@pytest.mark.parametrize("rule", [{}, {"scale_rule": "floor"}])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "AdamW"])
@pytest.mark.parametrize("spec", ["log4_hyst", "int8", "fp134_sr"])
def test_parameters_hold_the_scheme_of_master_and_previous(spec, optimizer, rule):
    model, opt, weights = trained(spec, optimizer, steps=2, **rule)
    previous = {n: p.detach().clone() for n, p in weights.params.items()}
    one_step(model, opt, 2)
    for name, p in weights.params.items():
        master, scale = weights.masters[name], weights.scales[name]
        dims = (1, 2, 3) if master.ndim == 4 else (0, 1)
        significand, exponent = torch.frexp(master.abs().amax(dims, keepdim=True))
        turn = 2 - 2.0 ** -weights.scheme.format.octaves[0]  # from here up it would be rounded to the next octave
        assert torch.equal(scale, exponent.int() - 1 + ((2 * significand >= turn) & (not rule)))
        low, high = (getattr(weights.scheme.format, side)(master, scale) for side in ("floor", "ceil"))
        assert bool(((p == low) | (p == high)).all())
        if spec == "log4_hyst":
            assert torch.equal(p, torch.where(master >= previous[name], low, high))
        assert not torch.equal(master, p)


def test_full_precision_weights_train_exactly_as_without():
    model, opt, weights = trained("fp32")
    assert weights.names == []
    plain = convolutional()
    opt = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    for step in range(4):
        one_step(plain, opt, step)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))


def test_the_optimizer_sees_masters_and_its_own_state_only():
    """One SGD step by hand: master - lr * (grad + decay * master), momentum starting at the gradient."""
    model = convolutional()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    opt = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
    weights = lpt.attach_weights_(model, opt, "log4_hyst")
    x, y = images()
    nn.functional.cross_entropy(model(x), y).backward()
    wanted = {n: start[n] - 0.1 * (model.get_parameter(n).grad + 0.01 * start[n]) for n in weights.names}
    opt.step()
    for name in weights.names:
        torch.testing.assert_close(weights.masters[name], wanted[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize(("optimizer", "coupled"), [("SGD", True), ("AdamW", False)])
def test_decay_of_the_quantized_weight(optimizer, coupled):
    model = convolutional()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    opt = getattr(torch.optim, optimizer)(model.parameters(), lr=0.1, weight_decay=0.5)
    weights = lpt.attach_weights_(model, opt, "int4", decay="quantized")
    quantized = {n: p.detach().clone() for n, p in weights.params.items()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    opt.step()
    assert [g["weight_decay"] for g in opt.param_groups] == [0.5]
    for name in weights.names:
        torch.testing.assert_close(weights.masters[name], start[name] - 0.1 * 0.5 * quantized[name])
    norm = model.get_parameter("1.weight")  # a parameter that is not quantized decays as usual
    torch.testing.assert_close(norm.detach(), start["1.weight"] * (1 - 0.05))


def test_a_failed_step_leaves_quantized_weights_and_masters():
    model, opt, weights = trained()
    before = copy.deepcopy((weights.masters, {n: p.detach() for n, p in weights.params.items()}))
    weights.swap_in(opt)
    assert all(torch.equal(p, weights.masters[n]) for n, p in weights.params.items())
    with torch.no_grad():
        weights.params["0.weight"].add_(1)
    weights.restore()
    assert all(torch.equal(p, before[1][n]) for n, p in weights.params.items())
    expected = {n: m + 1 if n == "0.weight" else m for n, m in before[0].items()}
    assert all(torch.equal(m, expected[n]) for n, m in weights.masters.items()), "as far as the step came"
    weights.restore()  # twice does no harm
    one_step(model, opt, 9)


def test_wrong_order_and_wrong_arguments_are_told():
    model, opt, weights = trained(steps=1)
    with pytest.raises(RuntimeError, match="without swap_in"):
        weights.update(opt)
    with pytest.raises(ValueError, match="attached to an optimizer already"):
        lpt.attach_weights_(model, opt, "int8")
    with pytest.raises(ValueError, match="holds none of this model's weights"):
        lpt.attach_weights_(convolutional(), opt)
    with pytest.raises(ValueError, match="matches no weight"):
        lpt.QuantizedWeights(convolutional(), skip=["head*"])
    with pytest.raises(ValueError, match="granularity='row'"):
        lpt.QuantizedWeights(convolutional(), granularity="row")


def test_saving_and_loading_continues_bit_for_bit():
    for options in ({}, {"scaling": "tracked"}, {"master": "fp169", "momentum": "fp169"}, {"spec": "int4_sr"}):
        model, opt, weights = trained(**options, steps=3)
        saved = pickle.loads(pickle.dumps((model.state_dict(), opt.state_dict(), weights.state_dict())))
        one_step(model, opt, 7)
        again, opt2, weights2 = trained(**options, steps=0)
        again.load_state_dict(saved[0])
        opt2.load_state_dict(saved[1])
        weights2.load_state_dict(saved[2])
        one_step(again, opt2, 7)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert all(torch.equal(weights.masters[n], weights2.masters[n]) for n in weights.names)
        assert torch.equal(weights.flips(), weights2.flips())
    with pytest.raises(ValueError, match="other weights"):
        lpt.QuantizedWeights(nn.Linear(3, 3)).load_state_dict(saved[2])


def test_loading_foreign_weights_rebuilds_the_masters():
    model, _, weights = trained()
    foreign = convolutional().state_dict()
    model.load_state_dict(foreign)
    for name, p in weights.params.items():
        assert torch.equal(weights.masters[name], foreign[name])
        assert torch.equal(p, weights.scheme.format.round(foreign[name], weights.scales[name]))


def test_tied_weights_are_quantized_once():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    weights = lpt.QuantizedWeights(model, "int4")
    assert weights.names == ["0.weight"] and model[1].weight is model[0].weight
    weights.swap_in()
    weights.update()
    assert model[1].weight is model[0].weight


def test_masters_and_momenta_in_fp169():
    _, opt, weights = trained("log4_hyst", "Adam", master="fp169", momentum="fp169")
    fp169 = lpt.formats.get("fp169")
    for name, p in weights.params.items():
        assert torch.equal(fp169.round(weights.masters[name]), weights.masters[name])
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(fp169.round(opt.state[p][key]), opt.state[p][key])


def test_averaged_masters():
    _, _, weights = trained()
    before = {n: p.detach().clone() for n, p in weights.params.items()}
    averages = {n: (m + 1) / 2 for n, m in weights.masters.items()}
    with weights.averaged(averages):
        for name, p in weights.params.items():
            dim = 0 if p.ndim == 4 else None
            scale = lpt.formats.scale_of(averages[name], dim)
            assert torch.equal(p, nearest(averages[name], "log4", scale))
    assert all(torch.equal(p, before[n]) for n, p in weights.params.items())


def test_flips_level_and_regrid():
    """int3 at scale 0: steps of 0.5, levels to 1.5. The second layer's scale moves, the first one's does not."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.5], [0.0, -0.5]]))
        model[1].weight.copy_(torch.tensor([[1.0, 0.5], [0.0, -0.5]]))
    weights = lpt.QuantizedWeights(model, "int3")
    weights.swap_in()
    with torch.no_grad():
        model[0].weight[0, 1] = 1.0  # 0.5 -> 1.0: one level flip
        model[1].weight[0, 0] = 2.0  # scale 0 -> 1, steps of 1: 1.0 -> 2.0, 0.5 -> 0 (tie to even), -0.5 -> 0
    weights.update()
    assert weights.flips().tolist() == [[1, 0, 4], [0, 3, 4]]
    weights.reset_flips()
    assert weights.flips().tolist() == [[0, 0, 0], [0, 0, 0]]


def test_tracked_weight_scales_move_by_one():
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.5], [0.0, -0.5]]))
    weights = lpt.QuantizedWeights(model, "int4", scaling="tracked")
    seen = []
    for factor in (16.0, 1.0, 1.0, 1.0, 0.0, 1.0):
        weights.swap_in()
        with torch.no_grad():
            model[0].weight.mul_(factor)
        weights.update()
        seen.append(weights.scales["0.weight"].item())
    assert seen == [1, 2, 3, 4, 4, 4]
