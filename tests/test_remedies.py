"""Each remedy's state machine against a slow one, element by element, on random walks; saved in the middle; refused."""

from __future__ import annotations

import copy
import functools
import itertools
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import get_class
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import convolutional, images
from torch import nn

import lpt
from lpt.weights.remedy import Chooser, Moment
from lpt.weights.rules import Nearest

CONF = Path(__file__).resolve().parents[1] / "conf" / "remedy"
FILES = {p.stem: yaml.safe_load(p.read_text()) for p in sorted(CONF.glob("*.yaml")) if p.stem != "none"}
FORMATS = ["int3", "int4", "log4", "fp134", "mxfp4", "nvfp4"]
F = np.float32


def remedy(name, **options):
    settings = {key: value for key, value in FILES[name].items() if key != "_target_"}
    return get_class(FILES[name]["_target_"])(**{**settings, **options})


# -- choosers ----------------------------------------------------------------------------------------------------------


def between(w, previous, low, high, width):
    if low == high:
        return low
    if w >= previous:
        return high if w >= F(low + F(F(F(1 + width) / F(2)) * F(high - low))) else low
    return low if w <= F(high - F(F(F(1 + width) / F(2)) * F(high - low))) else high


class Slow:
    """One weight under one chooser."""

    def __init__(self, w, q):
        self.w = self.average = self.before = w
        self.q, self.direction, self.frequency, self.frozen, self.waited = q, 0, F(0), False, 0
        self.mean_q, self.drift, self.travel = q, F(0), F(0)

    def q_ema(self, w, near, dial):
        self.average = F(self.average * F(0.9) + w * F(1 - 0.9))
        low, high = near(w)[:2]
        middle = F(low + high) / F(2)
        away = self.average >= middle if w >= 0 else self.average <= middle  # the level further from zero
        upper, lower = (high, low) if w >= 0 else (low, high)
        return near(w)[2] if dial < 3 else (upper if away else lower)

    def freezing(self, w, near, dial):
        m = F(0.25)
        new = near(self.mean_q)[2] if self.frozen else near(w)[2]
        change = int(np.sign(new - self.q))
        reversal = change * self.direction < 0
        self.frequency = F(F(reversal) * m + self.frequency * F(0.75))
        self.direction = change or self.direction
        if not self.frozen:
            self.frozen = bool(self.frequency > F(0.2))
            self.mean_q = near(self.mean_q)[2] if self.frozen else F(new * m + self.mean_q * F(0.75))
        return new

    def rate_hysteresis(self, w, near, dial):
        return between(w, self.q, *near(w)[:2], F(1 / dial))

    def drift_hysteresis(self, w, near, dial):
        move, self.before = F(w - self.before), w
        self.drift = F(self.drift * F(0.75) + move * F(0.25))
        self.travel = F(self.travel * F(0.75) + abs(move) * F(0.25))
        width = F(1 - abs(self.drift) / self.travel) if self.travel > 0 else F(1)
        return between(w, self.q, *near(w)[:2], min(max(width, F(0)), F(1)))

    def debounce(self, w, near, dial):
        wanted, kept = near(w)[2], near(self.q)[2]
        self.waited = 0 if wanted == kept else self.waited + 1
        if self.waited >= 3:
            self.waited = 0
            return wanted
        return kept

    def settling(self, w, near, dial):
        n = dial - 4
        if n < 1:
            return near(w)[2]
        share = max(F(1) / F(n), F(1) - F(1 / dial))
        self.average = w if share == 1 else F(self.average + F(F(w - self.average) * share))
        return near(self.average)[2]


def near(format, master, scale, i):
    """x -> the levels at or below, at or above, and nearest to x on the grid of weight i."""

    def found(x):
        at = master.clone()
        at[0, i] = float(x)
        return tuple(F(f(at, scale=scale)[0, i]) for f in (format.floor, format.ceil, format.round))

    return functools.cache(found)


CHOOSERS = {
    "q_ema": lpt.weights.QEma(decay=0.9, start=3),
    "freezing": lpt.weights.Freezing(momentum=0.25, first=0.2, last=0.2, after=0.0),
    "rate_hysteresis": lpt.weights.RateHysteresis(),
    "drift_hysteresis": lpt.weights.DriftHysteresis(decay=0.75),
    "debounce": lpt.weights.Debounce(patience=3),
    "settling": lpt.weights.Settling(after=0.04),
}


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(sorted(CHOOSERS)),
    spec=st.sampled_from(FORMATS),
    size=st.sampled_from([1 / 64, 1 / 4, 1.0]),
    seed=st.integers(0, 2**20),
)
def test_choosers_follow_slow_ones_on_walks_with_moving_scales(name, spec, size, seed):
    """20 weights, two blocks of nvfp4, whose scale moves as their largest value does."""
    random = torch.Generator().manual_seed(seed)
    format = lpt.formats.get(spec)
    start = torch.round(torch.randn(1, 20, generator=random) * 64) / 64
    master, scale = start.clone(), format.scale_of(start)
    quantized = format.round(master, scale=scale)
    chooser = CHOOSERS[name].scheme(Nearest(format))
    state = chooser.begin(master, quantized)
    slow = [Slow(F(w), F(q)) for w, q in zip(master[0].tolist(), quantized[0].tolist(), strict=True)]
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    for step in range(1, 16):
        master = start + size * torch.round(torch.randn(1, 20, generator=random) * 32) / 32
        chooser.dial(state, Moment(optimizer, [], step, 100), 1 / step)
        master = chooser.hold(master, *state.values())
        for i, one in enumerate(slow):
            assert master[0, i] == one.mean_q or not one.frozen
        scale = format.scale_of(master)
        quantized = chooser(master, quantized, scale, None, *state.values())
        wanted = []
        for i, one in enumerate(slow):
            one.q = getattr(one, name)(F(master[0, i]), near(format, master, scale, i), step)
            wanted.append(one.q)
        assert np.array_equal(np.array(wanted, dtype=F), quantized[0].numpy())


@pytest.mark.parametrize("inner", ["int4", "int4_hyst", "mxfp4"])
def test_at_a_rate_that_stays_weights_settle_on_the_mean(inner):
    """Before, the scheme's own levels; from half of 24 steps on, those nearest to the mean of the masters since."""
    plain = [{k: p.detach().clone() for k, p in w.params.items()} for w, _ in walk(None, inner, 24)]
    since: dict[str, list] = {}
    away = 0
    for step, (weights, _) in enumerate(walk(lpt.weights.Settling(after=0.5), inner, 24)):
        weights.grids = dict(weights.scales)
        for key, p in weights.params.items():
            if step < 12:
                assert torch.equal(p, plain[step][key])
                continue
            since.setdefault(key, []).append(weights.masters[key].clone())
            mean = torch.stack(since[key]).mean(0)
            off = p != on_grid(weights, key, mean, "round")
            middle = (on_grid(weights, key, mean, "floor") + on_grid(weights, key, mean, "ceil")) / 2
            assert not (off & ((mean - middle).abs() > 1e-5)).any()
            away += int((p != on_grid(weights, key, weights.masters[key], "round")).sum())
    assert away > 0


# -- around the step ---------------------------------------------------------------------------------------------------


def walk(chosen, spec, steps, seed=0, lr=2.0**-3, optimizer=None, total=None):
    """Yields before each step: gradients that are multiples of 2**-6, so that sums and steps are exact."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(32, 2, bias=False), nn.Conv2d(2, 2, 3, bias=False))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_((p * 64).round() / 64)
    opt = optimizer(model.parameters()) if optimizer else torch.optim.SGD(model.parameters(), lr=lr)
    weights = lpt.attach_weights_(model, opt, spec, remedy=chosen, steps=total or steps)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = (torch.randn(p.shape) * 64).round() / 64
        before = {
            n: (weights.masters[n].clone(), p.detach().clone(), p.grad.clone()) for n, p in weights.params.items()
        }
        opt.step()
        yield weights, before


def on_grid(weights, name, x, which):
    """floor, ceil or round of x on the grid that the weight had."""
    w = next(w for w in weights._members.weights if w.name == name)
    out = torch.empty_like(x)
    w.channels.view(out).copy_(getattr(w.plan.format, which)(w.channels.view(x), scale=weights.grids[name]))
    return out


def with_grids(walked):
    """Keeps the scales of before each step at hand."""
    grids = None
    for weights, before in walked:
        if grids is not None:
            weights.grids = grids
            yield weights, before
        grids = {name: scale.clone() for name, scale in weights.scales.items()}


@pytest.mark.parametrize("spec", FORMATS)
@pytest.mark.parametrize("name", ["dampening", "ewgs", "stableqat"])
def test_gradients_are_changed_as_told(name, spec):
    options = {"dampening": {"strength": 0.5, "after": 0.25}, "ewgs": {"delta": 0.5}, "stableqat": {}}[name]
    done = 1
    for weights, before in with_grids(walk(remedy(name, **options), spec, 12)):
        for key, (master, q, g) in before.items():
            low, high = (on_grid(weights, key, master, which).double() for which in ("floor", "ceil"))
            w, q, g = master.double(), q.double(), g.double()
            for i in range(w.numel()):
                at, lo, hi, of = (
                    w.flatten()[i].item(),
                    low.flatten()[i].item(),
                    high.flatten()[i].item(),
                    q.flatten()[i].item(),
                )
                slope = g.flatten()[i].item()
                if name == "dampening":
                    share = done / 12
                    strength = 0.0 if share < 0.25 else 0.5 * (1 - math.cos(math.pi * (share - 0.25) / 0.75)) / 2
                    slope += (2 * strength * (at - of) if hi > lo else 0.0) / (9 if key == "1.weight" else 1)
                elif name == "ewgs":
                    slope *= 1 + 0.5 * math.copysign(1, slope) * ((at - of) / (hi - lo) if hi > lo else 0.0)
                else:
                    a = math.sqrt(2) * math.pi * 0.21
                    nearest = lo if at - lo < hi - at else hi
                    d = (at - nearest) / (hi - lo) if hi > lo else 0.0
                    slope *= (1 - a * math.cos(math.pi * d)) / (1 + a * math.cos(math.pi * d))
                assert weights.masters[key].flatten()[i].item() == pytest.approx(at - slope / 8, rel=1e-5, abs=1e-6)
        done += 1


@pytest.mark.parametrize("spec", FORMATS)
def test_oscireset_resets_what_oscillates(spec):
    moved, jumped, resets = {}, {}, 0
    chosen = lpt.weights.OsciReset(every=6, track=4, threshold=2.0, after=0.3)
    for step, (weights, before) in enumerate(walk(chosen, spec, 30, lr=2.0**-5), start=1):
        phase = 0 if step <= 12 else (step - 13) % 6 + 1  # 0.3 * 30 = 9 steps, rounded up to whole sixes
        for key, (master, q, g) in before.items():
            stepped, now = master - g * 2.0**-5, weights.params[key].detach()
            if phase == 1:
                moved[key], jumped[key] = torch.zeros_like(q), torch.zeros_like(q)
            if 1 <= phase <= 4:
                moved[key] += (stepped - master).abs()
                jumped[key] += (now - q).abs()
            wanted = stepped
            if phase == 4:
                reset = (moved[key] > 0) & (jumped[key] >= 2 * moved[key])
                wanted = torch.where(reset, now, stepped)
                resets += int(reset.sum())
            assert torch.equal(weights.masters[key], wanted)
    assert resets > 0 or spec == "fp134"  # whose steps are too small


@pytest.mark.parametrize("spec", FORMATS)
def test_q_ramping_gathers_gradients(spec):
    """N is 1 or 4, so that means and multiples are exact."""
    chosen = lpt.weights.QRamping(every=15, track=4, threshold=2.0, grow=3, most=4)
    moved, jumped, every, waited, total, seldom = {}, {}, {}, {}, {}, 0
    for step, (weights, before) in enumerate(walk(chosen, spec, 45, lr=2.0**-5), start=1):
        phase = (step - 1) % 15 + 1
        for key, (master, q, g) in before.items():
            flat, old, slope = weights.masters[key].flatten(), master.flatten(), g.flatten()
            if phase == 1:
                moved[key], jumped[key], every[key] = torch.zeros_like(q), torch.zeros_like(q), [1] * q.numel()
            waited.setdefault(key, [0] * q.numel())
            total.setdefault(key, [0.0] * q.numel())
            for i in range(q.numel()):
                waited[key][i] += 1
                total[key][i] += slope[i].item()
                n = waited[key][i]
                if n >= every[key][i] or phase == 15:
                    assert flat[i].item() == pytest.approx(old[i].item() - n * 2.0**-5 * total[key][i] / n, abs=1e-6)
                    seldom += n > 1
                    waited[key][i], total[key][i] = 0, 0.0
                else:
                    assert flat[i] == old[i]
            if phase <= 4:
                moved[key] += (weights.masters[key] - master).abs()
                jumped[key] += (weights.params[key].detach() - q).abs()
            if phase == 4:
                ratio = torch.where(moved[key] > 0, jumped[key] / moved[key], 0.0)
                every[key] = [min(4, int(r // 2.0) * 3 + 1) for r in ratio.flatten().tolist()]
    assert seldom > 0 or spec == "fp134"


def test_q_ramping_keeps_the_momenta_of_weights_that_wait():
    chosen = lpt.weights.QRamping(every=40, track=4, threshold=0.5, grow=3, most=4)
    make = lambda parameters: torch.optim.AdamW(parameters, lr=0.05)  # noqa: E731
    kept = {}
    waiting = 0
    for weights, before in walk(chosen, "int4", 30, optimizer=make):
        opt = next(iter(weights._admitted))
        for w in weights._members.weights:
            state = {k: opt.state[w.param][k].clone() for k in ("exp_avg", "exp_avg_sq")}
            stays = (w.memory["waited"] > 0) & (weights.masters[w.name] == before[w.name][0])
            if w.name in kept:
                for k, value in state.items():
                    assert torch.equal(value[stays], kept[w.name][k][stays])
                waiting += int(stays.sum())
            kept[w.name] = state
    assert waiting > 100


@pytest.mark.parametrize("spec", FORMATS)
def test_the_weights_rate_follows_the_share_that_changes(spec):
    chosen = lpt.weights.TransitionRate(share=0.01, gain=4.0, decay=0.5)
    rate, changing, total = {}, {}, 20
    for step, (weights, before) in enumerate(walk(chosen, spec, total, lr=2.0**-5)):
        for key, (master, q, g) in before.items():
            u = rate.get(key, 1.0)
            wanted = master.double() - u * 2.0**-5 * g.double()
            torch.testing.assert_close(weights.masters[key].double(), wanted, rtol=1e-5, atol=1e-6)
            share = (weights.params[key].detach() != q).double().mean().item()
            changing[key] = 0.5 * changing.get(key, 0.0) + 0.5 * share
            falling = (1 + math.cos(math.pi * step / total)) / 2
            target = 0.01 * math.sqrt(lpt.formats.get(spec).bits) * falling
            rate[key] = max(0.0, u + 4.0 * (target - changing[key]))
    assert min(rate.values()) < 1


def test_other_parameters_keep_the_rate_of_the_schedule():
    model = nn.Sequential(nn.Linear(4, 4))
    opt = torch.optim.SGD(model.parameters(), lr=0.5)
    lpt.attach_weights_(model, opt, "int4", remedy=lpt.weights.TransitionRate(), steps=4)
    for lr in (0.5, 0.125, 0.0):
        opt.param_groups[0]["lr"] = lr
        bias = model[0].bias.detach().clone()
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        opt.step()
        assert opt.param_groups[0]["lr"] == lr
        torch.testing.assert_close(model[0].bias.detach(), bias - lr)


# -- all of them -------------------------------------------------------------------------------------------------------

QUICK = {"freezing": {"after": 0.0, "momentum": 0.3, "first": 0.2, "last": 0.2}, "dampening": {"after": 0.0},
         "q_ramping": {"every": 7, "track": 2, "threshold": 0.01}, "oscireset": {"every": 3, "track": 2, "after": 0.0},
         "debounce": {"patience": 2}, "q_ema": {"start": 2}, "settling": {"after": 0.0}}  # fmt: skip


def trained(name, spec, steps, optimizer="AdamW"):
    model = convolutional()
    opt = getattr(torch.optim, optimizer)(model.parameters(), lr=0.02)
    weights = lpt.attach_weights_(model, opt, spec, remedy=remedy(name, **QUICK.get(name, {})), steps=20)
    steps_of(model, opt, range(steps))
    return model, opt, weights


def steps_of(model, opt, numbers):
    for step in numbers:
        x, y = images(seed=step)
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        opt.step()


@pytest.mark.parametrize("spec", ["log4", "nvfp4"])
@pytest.mark.parametrize("name", FILES)
def test_saving_in_the_middle_continues_bit_for_bit(name, spec):
    model, opt, weights = trained(name, spec, 5)
    saved = pickle.loads(pickle.dumps((model.state_dict(), opt.state_dict(), weights.state_dict())))
    steps_of(model, opt, range(5, 10))
    again, opt2, weights2 = trained(name, spec, 0)
    again.load_state_dict(saved[0])
    opt2.load_state_dict(saved[1])
    weights2.load_state_dict(saved[2])
    steps_of(again, opt2, range(5, 10))
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(weights._members.weights, weights2._members.weights, strict=True):
        assert torch.equal(a.master, b.master) and a.memory.keys() == b.memory.keys()
        assert all(torch.equal(a.memory[key], b.memory[key]) for key in a.memory)
    plain, _, other = trained(name, spec, 0)
    other.remove()
    bare = lpt.attach_weights_(plain, torch.optim.SGD(plain.parameters(), lr=0.1), spec)
    with pytest.raises(ValueError, match="quantized in another way"):
        bare.load_state_dict(saved[2])


@pytest.mark.parametrize("name", FILES)
def test_each_does_something(name):
    _, _, weights = trained(name, "int4", 6, "SGD")
    plain = convolutional()
    opt = torch.optim.SGD(plain.parameters(), lr=0.02)
    others = lpt.attach_weights_(plain, opt, "int4")
    steps_of(plain, opt, range(6))
    assert not all(torch.equal(weights.masters[key], others.masters[key]) for key in weights.names)


def test_what_others_write_begins_anew():
    model, _, weights = trained("drift_hysteresis", "int4", 4)
    w = weights._members.weights[0]
    before = {key: kept.clone() for key, kept in w.memory.items()}
    with torch.no_grad():
        w.param.view(-1)[0] = 3.0
    weights.follow()
    assert w.memory["before"].view(-1)[0] == 3.0 and w.memory["drift"].view(-1)[0] == 0
    assert all(torch.equal(w.memory[key].view(-1)[1:], before[key].view(-1)[1:]) for key in before)
    model.double()
    weights.follow()
    assert w.memory["drift"].shape == w.param.shape


def test_what_does_not_go_together_is_told():
    model = convolutional()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    for name in FILES:
        with pytest.raises(ValueError, match="remedy for quantized weights, and these are in fp32"):
            lpt.attach_weights_(model, opt, "fp32", remedy=remedy(name), steps=9)
    for name in CHOOSERS:
        if name not in ("freezing", "settling"):  # which go with hysteresis, too
            with pytest.raises(ValueError, match=r"and so does Hysteresis.* such as weights=log4"):
                lpt.attach_weights_(model, opt, "log4_hyst", remedy=remedy(name))
    with pytest.raises(ValueError, match="is no lpt"):
        lpt.attach_weights_(model, opt, "int4", remedy="freezing")
    for name in FILES:
        one = remedy(name)
        if one.follows:
            with pytest.raises(ValueError, match="give steps="):
                lpt.attach_weights_(model, opt, "int4", remedy=one)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("q_ema", {"decay": 1.0}, "decay=1.0"),
        ("freezing", {"after": -0.1}, "after=-0.1"),
        ("dampening", {"strength": 0}, "strength=0"),
        ("stableqat", {"amplitude": 0.3}, "amplitude=0.3"),
        ("oscireset", {"track": 500}, "track=500 steps do not fit"),
        ("q_ramping", {"most": 300}, "most=300"),
        ("debounce", {"patience": 0}, "patience=0"),
        ("transition_rate", {"gain": True}, "gain=True"),
    ],
)
def test_wrong_settings_are_told(name, options, message):
    with pytest.raises(ValueError, match=message):
        remedy(name, **options)


def test_choosers_are_schemes_too():
    for name, kind in CHOOSERS.items():
        scheme = lpt.weights.scheme(name, "int4")
        assert isinstance(scheme, Chooser) and type(scheme) is type(kind) and scheme.format.name == "int4"


@pytest.mark.parametrize("kernels", [None, lpt.formats.kernels.Library()])
def test_another_scheme_set_in_training_is_the_one_that_rounds(kernels):
    """As the width of hysteresis is changed by `lpt.callbacks.width`."""
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))  # int3 at scale 0: steps of 0.5
    opt = torch.optim.SGD(model.parameters(), lr=1.0)
    weights = lpt.attach_weights_(model, opt, "int3_hyst", kernels=kernels)
    for width, level in ((1.0, 0.0), (0.0, 0.5)):
        weights.scheme = lpt.weights.Hysteresis("int3", width)
        model.weight.grad = torch.tensor([[0.0, -0.375 if width else 0.0, 0.0]])
        opt.step()
        assert model.weight[0, 1] == level


def test_reversals_and_rates_by_hand():
    direction = torch.zeros(4, dtype=torch.int8)
    walk = torch.tensor([[0.0, 0, 0, 0], [1, 1, 0, -1], [0, 1, 0, -2], [1, 0, 0, -3]])
    found = []
    for old, new in itertools.pairwise(walk):
        back, direction = lpt.indicators.reversals(new, old, direction)
        found.append(back.tolist())
    assert found == [[False] * 4, [True, False, False, False], [True, True, False, False]]
    three, four = torch.tensor([3.0]), torch.tensor([[4.0]])
    assert lpt.indicators.rate_of_change([three + 6, four], [three, four]) == 6 / 5
    assert lpt.indicators.rate_of_change(three * 0, three * 0) == 0
    jumped, moved = (
        [torch.tensor([16.0, 15.0, 0.0]), torch.tensor([0.0])],
        [torch.tensor([1.0, 1.0, 2.0]), torch.zeros(1)],
    )
    assert lpt.indicators.oscillating(jumped, moved) == 1 / 4
    master, format = torch.tensor([0.0, 0.25, 0.125, 9.0]), lpt.formats.get("int3")
    sure = lpt.indicators.confidence(master, format.round(master), format, 0, 0.0)  # steps of 0.5
    assert sure.tolist() == [1.0, 0.0, 0.5, 1.0]


def test_statistics_anew_are_means_over_batches_and_go_again():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))
    model.train()
    before = copy.deepcopy(model.state_dict())
    batches = [torch.randn(8, 2) + 3, torch.randn(8, 2)]
    with lpt.indicators.statistics_anew(model, batches):
        assert not any(m.training for m in model.modules())
        torch.testing.assert_close(model[0].running_mean, sum(b.mean(0) for b in batches) / 2)
        torch.testing.assert_close(model[0].running_var, sum(b.var(0) for b in batches) / 2)
    assert all(m.training for m in model.modules()) and model[0].momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


DOC = CONF.parents[1] / "docs" / "remedies.md"


@pytest.mark.parametrize("name", FILES)
def test_the_table_of_what_each_keeps(name):
    rows = [
        row.split(" | ") for row in DOC.read_text(encoding="utf-8").splitlines() if row.startswith(f"| `{name}` | ")
    ]
    one, master = remedy(name), torch.zeros(7, 3)
    kept = one.memory(master) | (one.begin(master, master) if isinstance(one, Chooser) else {})
    each = sum(t.element_size() for t in kept.values() if t.ndim)
    assert [(int(row[2]), row[4], row[5].strip(" |")) for row in rows] == [(each, one.source, one.certainty)]
