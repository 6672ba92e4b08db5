"""Candidates in the slots of products: angles against float64 by the definition, the two numbers by hand, mixtures."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import attentive, convolutional, images
from torch import Tensor, nn

import lpt
from lpt.dataflow.slots import PRODUCTS, SLOTS
from lpt.search import Candidate, Probe
from lpt.search.candidates import bits_of, candidate, resolve
from lpt.search.draws import Sums, flat, two_numbers
from lpt.search.knapsack import front
from lpt.search.parts import loss_of, parts, total
from lpt.search.race import race
from lpt.search.rows import seen_by, unseen
from lpt.search.suggest import menu_of

NEAR = 1e-4  # degrees


def degrees(a: Tensor, b: Tensor) -> float:
    return math.degrees(math.acos(min(1.0, (a @ b / a.norm() / b.norm()).item())))


# -- angles, from the definition ---------------------------------------------------------------------------------------


def e2m1(x: Tensor, dim: int, size: int) -> Tensor:
    """MXFP4 by the floor rule, from its definition: E2M1 in blocks along `dim`, each scaled by a power of two."""
    x = x.movedim(dim, -1)
    y = F.pad(x, (0, -x.shape[-1] % size)).unflatten(-1, (-1, size))
    amax = y.abs().amax(-1, keepdim=True)
    scale = torch.where(amax > 0, 2.0 ** (torch.floor(torch.log2(amax.clamp(min=1e-300))) - 2), 1.0)
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    z = (y / scale).abs().clamp(max=6)
    distance = (z[..., None] - levels).abs()
    best = distance.argmin(-1)  # of two at the same distance the first; ties go to the even one
    up = (best + 1).clamp(max=7)
    tie = (distance.gather(-1, up[..., None]) == distance.gather(-1, best[..., None]))[..., 0]
    best = torch.where(tie & (best % 2 == 1), up, best)
    q = (levels[best] * y.sign() * scale).flatten(-2)[..., : x.shape[-1]]
    return q.movedim(-1, dim)


def own(w1: Tensor, w2: Tensor, x: Tensor, y: Tensor, rounded: set[str]) -> Tensor:
    """Gradients of a network of two products with a ReLU between, by hand; slots in `rounded` are MXFP4."""

    def q(slot: str, t: Tensor, dim: int) -> Tensor:
        return e2m1(t, dim, 32) if slot in rounded else t

    h = q("x", x, 1) @ q("w", w1, 1).T
    a = h.clamp(min=0)
    z = q("x", a, 1) @ q("w", w2, 1).T
    e = (z.softmax(1) - F.one_hot(y, z.shape[1])) / len(y)
    g2 = q("wgrad_e", e, 0).T @ q("wgrad_x", a, 0)
    back = (q("dgrad_e", e, 1) @ q("dgrad_w", w2, 0)) * (h > 0)
    g1 = q("wgrad_e", back, 0).T @ q("wgrad_x", x, 0)
    return torch.cat([g1.flatten(), g2.flatten()])


def network() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 24, bias=False), nn.ReLU(), nn.Linear(24, 7, bias=False)).double()
    return model, torch.randn(50, 40, dtype=torch.float64), torch.randint(7, (50,))


def probe(model: nn.Module, candidates: list[Candidate], activation: str = "local") -> Probe:
    return Probe(model, lambda b: F.cross_entropy(model(b[0]), b[1]), activation, candidates, whole=True)


def test_angles_of_a_block_format_equal_a_computation_by_the_definition() -> None:
    model, x, y = network()
    weights = [p.detach() for p in model.parameters()]
    reference = own(*weights, x, y, set())
    every = {"x", "w", "dgrad_e", "dgrad_w", "wgrad_e", "wgrad_x"}
    each = candidate("mxfp4")
    wanted = {
        "error": {"dgrad_e", "dgrad_w", "wgrad_e"}, "local": {"wgrad_x"}, "propagated": {"x", "w", "wgrad_x"},
        "whole": every,
    }  # fmt: skip
    angles = {kind: degrees(own(*weights, x, y, slots), reference) for kind, slots in wanted.items()}
    for activation in ("local", "propagated"):
        with probe(model, [each], activation) as p:
            found = p.at((x, y))(each, whole=True)
            assert flat(p.reference((x, y))) == pytest.approx(reference, abs=1e-12)
        assert found.error == pytest.approx(angles["error"], abs=NEAR)
        assert found.activation == pytest.approx(angles[activation], abs=NEAR)
        assert found.whole == pytest.approx(angles["whole"], abs=NEAR)
    assert min(angles.values()) > 1
    with probe(model, [each]) as p:  # each slot alone, in each product
        measured = parts(p, [(x, y)], [each])["mxfp4"]
    alone = own(*weights, x, y, {"wgrad_x"})
    for name, rows in (("0", slice(960)), ("2", slice(960, None))):
        part = reference.clone()
        part[rows] = alone[rows]
        assert measured.angle(name, "wgrad_x") == pytest.approx(degrees(part, reference), abs=NEAR)
    assert {name: set(of) for name, of in measured.angles.items()} == {"0": every, "2": every}
    assert measured.size["2"] == dict.fromkeys(every, 50 * 24 * 7)
    assert measured.size["0"] == dict.fromkeys(every - {"dgrad_e", "dgrad_w"}, 50 * 40 * 24), "no gradient of the input"


@pytest.mark.parametrize("name", ["tetrajet", "nvfp4", "quartet", "quest", "mxfp8", "halo", "luq", "te_delayed"])
def test_the_whole_angle_is_that_of_a_training_with_the_recipe(name: str) -> None:
    model, batch = convolutional(16).double().eval(), images(16)
    batch = batch[0].double(), batch[1]
    each = candidate(f"recipe:{name}")
    assert each.products is not None
    with probe(model, [each]) as p:
        reference = p.reference(batch)
        found = p.gradient(batch, each)
        weights = list(p.weights.values())
    assert not any("forward" in vars(m) for m in model.modules())
    handle = lpt.attach_products_(model, each.products)
    wanted = torch.autograd.grad(F.cross_entropy(model(batch[0]), batch[1]), weights)
    handle.remove()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert degrees(flat(found), flat(reference)) > 0.1


def test_attention_and_a_model_with_products_of_its_own() -> None:
    model = attentive().eval()
    batch = torch.randint(20, (3, 6)), torch.randint(10, (18,))
    handle = lpt.attach_products_(model, lpt.Products(x="mxfp8_e4m3"))
    before = {n: m.__dict__["forward"] for n, m in model.named_modules() if "forward" in vars(m)}
    each = candidate("mxfp4")
    with Probe(model, lambda b: F.cross_entropy(model(b[0]).flatten(0, 1), b[1]), candidates=[each], whole=True) as p:
        found = p.at(batch)(each, True, True)
        with handle.off():
            plain = torch.autograd.grad(F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1]), p.weights.values())
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(p.reference(batch), plain, strict=True))
        losses = parts(p, [batch], [each])["mxfp4"].angles
    assert 0 < found.activation < found.whole and found.error > 1  # type: ignore[operator]
    assert {n: m.__dict__["forward"] for n, m in model.named_modules() if "forward" in vars(m)} == before
    scores = next(name for name in losses if name.endswith("scores"))
    assert losses[scores]["wgrad_x"] > 0, "of a product of two activations both operands carry errors back"


# -- the two numbers ---------------------------------------------------------------------------------------------------


def test_the_two_numbers_by_hand() -> None:
    """Two batches, two draws, gradients of two elements; r = (3, 0) on average."""
    sums = Sums(2)
    sums.add([torch.tensor([2.0, 1.0]).double(), torch.tensor([2.0, 3.0]).double()], torch.tensor([2.0, 0.0]).double())
    sums.add([torch.tensor([4.0, 5.0]).double(), torch.tensor([4.0, 1.0]).double()], torch.tensor([4.0, 0.0]).double())
    # Means of the draws (2, 2) and (4, 3), of all (3, 2.5); variances 2 and 8, on average V = 5; N D = 4.
    found = sums.numbers()
    assert found.systematic == pytest.approx(math.degrees(math.atan2(math.sqrt(2.5**2 - 5 / 4), 3)))
    assert found.noise_to_signal == pytest.approx(5 / ((4 + 16) / 2))


def test_rounding_at_random_is_noisy_and_to_nearest_is_biased() -> None:
    model, x, y = network()
    batches = [(x, y), (x.flip(1), y)]
    nearest, random = candidate("mxfp4_rceil"), candidate({"format": "mxfp4_rceil", "rounding": "stochastic"})
    back = {"dgrad_e": "x", "wgrad_e": "x"}
    unbiased = candidate({key: {"format": "mxfp4_rceil", "rounding": "stochastic"} for key in back})
    assert not nearest.random and random.random
    with probe(model, [nearest, random, unbiased]) as p:
        a, b, c = two_numbers(p, batches, [nearest, random, unbiased], draws=40)
        once = [p.at(batches[0])(each, whole=True).whole for each in (nearest, unbiased)]
    assert a.noise_to_signal == 0 < c.noise_to_signal < b.noise_to_signal
    assert a.systematic > 5 and c.systematic < a.systematic / 2 < once[1] < 3 * once[0]  # type: ignore[operator]


# -- mixtures ----------------------------------------------------------------------------------------------------------

options = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(options, min_size=1, max_size=5), st.integers(0, 100))
def test_the_knapsack_equals_all_choices_tried(groups: list[list[tuple[int, int]]], limit: int) -> None:
    every = [tuple(map(sum, zip(*choice, strict=True))) for choice in itertools.product(*groups)]
    found = front(groups)  # type: ignore[arg-type]
    for state, choice in enumerate(found.choices):
        sums = [sum(group[o][i] for group, o in zip(groups, choice, strict=True)) for i in (0, 1)]
        assert sums == [found.costs[state], found.losses[state]]
    for pick, at in ((found.cheapest(limit), 1), (found.best(limit), 0)):
        allowed = [sums for sums in every if sums[at] <= limit]
        assert (pick is None) == (not allowed)
        if pick is not None:
            other = min(sums[1 - at] for sums in allowed)
            assert other == (found.costs, found.losses)[1 - at][pick]


def test_a_knapsack_of_too_many_states_keeps_close_to_the_front() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.rand(12, 1, generator=generator) + 0.1
    costs, losses = torch.tensor([4.0, 6.0, 8.0]), torch.tensor([1.0, 0.2, 0.05])
    noise = torch.rand(12, 3, generator=generator)
    groups = torch.stack([sizes * costs / 10, (0.5 + noise) * losses], -1).tolist()
    exact, thin = front(groups, limit=10**6), front(groups, limit=50)
    assert len(thin.costs) <= 51 < len(exact.costs)
    for budget in torch.linspace(float(exact.costs[0]) * 1.1, float(exact.costs[-1]), 4).tolist():
        assert thin.losses[thin.best(budget)] <= 1.1 * exact.losses[exact.best(budget)]


def test_angles_and_losses_are_one_scale() -> None:
    assert total([loss_of(10.0)]) == pytest.approx(10.0) and loss_of(90.0) == math.inf
    assert total([loss_of(3.0), loss_of(4.0)]) == pytest.approx(5.0, rel=1e-2)


@pytest.fixture(scope="module")
def ranking() -> Any:
    model = convolutional(16).eval()
    batches = [images(16, seed) for seed in range(4)]
    return model, batches, lpt.search(
        model, batches, F.cross_entropy, candidates=["mxfp4", "mxfp8_e4m3", "recipe:tetrajet", "fp134"],
        method="exhaustive", by="whole", systematic=2, draws=2, slots=2, menu=["mxfp4", "mxfp8_e4m3"], budget=6.25,
    )  # fmt: skip


def test_a_search_of_slots_tells_everything(ranking: Any) -> None:
    _, _, found = ranking
    assert {row.name for row in found} == {"mxfp4", "mxfp8_e4m3", "recipe:tetrajet", "fp134"}
    assert [row.whole for row in found] == sorted(row.whole for row in found)
    row = found.find("recipe:tetrajet")
    assert row.noise_to_signal > 0 and 4.25 < row.bits < 32 and row.cost is None, "its ends are in full precision"
    assert found.find("mxfp4").bits == pytest.approx(4.25) and found.find("mxfp4").noise_to_signal == 0
    assert found.find("fp134").bits == 8 and found.find("mxfp4").octaves == 4
    text = str(found)
    assert "systematic" in text and "noise to signal" in text and "in 6 products" in text
    assert found.csv().splitlines()[0].endswith("whole,whole_se,systematic,noise_to_signal,element_bits")


def test_the_suggestion_keeps_its_budget_and_beats_what_is_as_cheap(ranking: Any) -> None:
    model, batches, found = ranking
    made = found.suggestion
    assert made.mixed.cost <= 6.25 + 1e-9
    low, high = made.uniform
    assert (low.name, high.name) == ("mxfp4", "mxfp8_e4m3") and high.angle < made.mixed.angle < low.angle
    assert set(made.choices) == set(found.products) and "suggested" in str(made)
    # Its rules, given to a training, are what was measured.
    handle = lpt.attach_products_(model, lpt.Products(**made.products))
    asked = {name: m.product.asked() for name, m in handle.rounding.items()}
    handle.remove()
    for product, slots in made.choices.items():
        assert {s: asked[product][s][0].grid.name for s in slots} == slots
    bounded = lpt.search(
        model, batches, F.cross_entropy, candidates=["mxfp4"], menu=["mxfp4", "mxfp8_e4m3"], bound=made.mixed.angle,
        method="exhaustive",
    ).suggestion  # fmt: skip
    assert bounded.mixed.angle <= made.mixed.angle and bounded.mixed.cost < 8.25


class Raced(Exception):
    """The race has begun."""


@pytest.mark.parametrize("asked", [{"budget": 4.2}, {"bound": 0.01}, {"budget": 1.0, "spend": "hardware"}], ids=str)
def test_what_no_mixture_keeps_is_refused_before_the_race(asked: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    def raced(*_: Any) -> None:
        raise Raced

    def run(**given: Any) -> None:
        batches = [images(8, seed) for seed in range(2)]
        lpt.search(convolutional(4), batches, F.cross_entropy, candidates=["mxfp4"], **given)

    monkeypatch.setattr("lpt.search.engine.exhaustive", raced)
    menu = ["mxfp4", "mxfp8_e4m3"]
    with pytest.raises(ValueError, match="in menu"):
        run(menu=menu, **asked)
    with pytest.raises(Raced):
        run(menu=menu, **{**asked, **({"budget": 1e6} if "budget" in asked else {"bound": 89.0})})


MENU = ["mxfp4_rceil", "mxfp4_even", "mxfp6_e2m3", "mxint8", "fp32",
        {"name": "forward", "x": "mxfp4", "w": "nvfp4"},
        {"name": "back", "dgrad_e": "mxint8", "dgrad_w": "mxfp4", "wgrad_e": "nvfp4", "wgrad_x": "nvfp4"}]  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.sampled_from(MENU), min_size=2, max_size=4, unique_by=str), st.booleans(), st.floats(0, 1),
    st.booleans(), st.integers(0, 9),
)  # fmt: skip
def test_a_suggestion_is_what_was_asked_for(menu: list, bounded: bool, at: float, frozen: bool, seed: int) -> None:
    """By hand: its bits over the multiplications that take place, its angle as a training has it; and nothing of the
    menu by itself is better."""
    torch.manual_seed(seed)
    first: nn.Module = nn.LayerNorm(64) if seed % 3 else nn.Identity()  # whose gain asks for a gradient of the first x
    model = nn.Sequential(first, nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 48), nn.Tanh(), nn.Linear(48, 6))
    model[1 if seed % 2 else 3].requires_grad_(not frozen)
    batches = [(torch.randn(16, 64), torch.randint(6, (16,))) for _ in range(2)]
    weights = [m.weight for m in model if isinstance(m, nn.Linear) and m.weight.requires_grad]

    def angle(products: lpt.Products) -> float:
        found = []
        for x, y in batches:
            whole = torch.autograd.grad(F.cross_entropy(model(x), y), weights)
            handle = lpt.attach_products_(model, products)
            rounded = torch.autograd.grad(F.cross_entropy(model(x), y), weights)
            handle.remove()
            found.append(degrees(flat(rounded).double(), flat(whole).double()))
        return sum(found) / 2

    def searched(**asked: float) -> Any:
        return lpt.search(model, batches, F.cross_entropy, candidates=["mxfp4"], menu=menu, slots=2, **asked).suggestion  # type: ignore[arg-type]

    angles, costs = ([getattr(each, key) for each in searched().uniform] for key in ("angle", "cost"))
    asked = (
        {"bound": max(0.5, min(angles) + at * (max(angles) - min(angles)))} if bounded
        else {"budget": min(costs) + at * (max(costs) - min(costs))}
    )  # fmt: skip
    made = searched(**asked)
    keep = [u for u in made.uniform if (u.angle <= asked["bound"] if bounded else u.cost <= asked["budget"])]
    better = min(((u.cost, u.angle) if bounded else (u.angle,) for u in keep), default=(math.inf,))
    assert ((made.mixed.cost, made.mixed.angle) if bounded else (made.mixed.angle,)) <= better
    assert made.mixed.angle <= asked["bound"] if bounded else made.mixed.cost <= asked["budget"] + 1e-9
    if any(made.products[slot] for slot in SLOTS):
        assert angle(lpt.Products(**made.products)) == pytest.approx(made.mixed.angle, abs=0.01)
    spelt = {n: lpt.Products(**made.products).of(n) for n in ("1", "3", "5")}
    read = []
    for n, layer in spelt.items():
        needs = {"forward": True, "dgrad": any(p.requires_grad for p in model[: int(n)].parameters()),
                 "wgrad": model[int(n)].weight.requires_grad}  # fmt: skip
        for product, pair in PRODUCTS.items():
            read += [(model[int(n)].weight.numel(), bits_of(layer.get(slot))) for slot in pair if needs[product]]
    assert sum(size * bits for size, bits in read) / sum(size for size, _ in read) == pytest.approx(made.mixed.cost)


def test_a_row_tells_which_of_its_operands_do_not_count() -> None:
    specs = ["mxfp4", "fp134",
             {"name": "a", "x": "mxfp4", "w": "mxfp4"}, {"name": "b", "w": "mxfp4", "dgrad_e": "mxint8"},
             {"name": "c", "x": "mxfp4", "w": "mxint8", "wgrad_x": "mxfp4"},
             {"name": "d", "wgrad_e": "mxfp4", "rules": [{"pattern": "0", "x": "nvfp4"}]}]  # fmt: skip
    specs += [{"name": "e", "x": "mxfp4", "rules": [{"pattern": "0", "dgrad_e": "mxfp4"}]},  # which nobody asks for
              {"name": "f", "x": "mxfp4", "rules": [{"pattern": "*", "x": None}]}]  # fmt: skip
    net, batch = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5)), (torch.randn(4, 32), torch.arange(4))
    with probe(net, resolve(specs)) as p:
        p.reference(batch)
        alone = {each.name: unseen(each, p, seen_by("both", True)) for each in resolve(specs)}
    assert alone == {
        "mxfp4": (), "fp134": (), "a": ("x", "w"), "b": ("w",), "c": ("w",), "d": ("x",), "e": ("x",), "f": (),
    }  # fmt: skip
    model, batches = convolutional(4).eval(), [images(8, seed) for seed in range(2)]
    for more, marked in (({}, True), ({"by": "whole"}, False), ({"activation": "propagated"}, False)):
        found = lpt.search(model, batches, F.cross_entropy, candidates=["mxfp4", specs[2]], **more)  # type: ignore[arg-type]
        assert ("(unseen: x, w)" in found.table()) == marked == ("\nunseen: " in str(found))
        assert ("unseen" in found.csv().splitlines()[0]) == marked and (found.find("a").unseen == ("x", "w")) == marked
        assert "error E" not in str(found), "nothing is rounded in Edges"
    ends = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 10))  # which that recipe leaves alone
    found = lpt.search(ends, batches, F.cross_entropy, candidates=["mxfp4", "recipe:nvfp4"])
    assert [line.endswith("(rounds nothing here)") for line in found.table().splitlines()[1:]] == [True, False]


# -- candidates, the race, mistakes ------------------------------------------------------------------------------------


def test_groups_hold_some_hundreds_and_every_one_rounds() -> None:
    found = resolve(["blocks4", "blocks6", "blocks8"])
    assert 300 <= len(found) <= 400 and len({each.name for each in found}) == len(found)
    x = torch.randn(64, 64)
    for each in found[::7]:
        assert each.format is not None and torch.isfinite(each.format.round(x)).all()
        assert lpt.formats.get(each.name) == each.format or each.name.startswith("[")
    assert {each.format.element.bits for each in found} == {4, 6, 8}  # type: ignore[union-attr]


def test_a_race_of_300_block_like_candidates_is_15_times_cheaper_and_right() -> None:
    """Means as those of groups of block formats lie: many near each other, at three numbers of bits."""
    import numpy as np

    generator = np.random.default_rng(0)
    means = np.concatenate([np.sort(generator.lognormal(np.log(m), 0.35, 100)) for m in (2.0, 7.0, 22.0)])
    x = means * generator.lognormal(0, 0.15, (100, 1)) * generator.lognormal(0, 0.04, (100, 300))
    spent, right = 0, 0
    for seed in range(20):
        y = x[np.random.default_rng(seed).permutation(100)]
        outcome = race(lambda n, some, y=y: y[n, list(some)], 300, 100)
        spent += int((~np.isnan(outcome.scores)).sum())
        true, top = set(np.argsort(x.mean(0))[:10].tolist()), set(outcome.order[:10])
        pairs = [(a, b) for a in top - true for b in true - top]
        zone = {(a, b): max(0.02, (x[:, a] - x[:, b]).std(ddof=1) / 10) for a, b in pairs}
        right += all(x[:, a].mean() - x[:, b].mean() <= zone[a, b] for a, b in pairs)
    assert right >= 19 and spent / 20 <= x.size / 15


def test_names_say_what_a_candidate_is() -> None:
    named = {
        "mxfp4 stochastic": lpt.Slot("mxfp4", "stochastic"), "fp134/16/e8m0/floor": {"element": "fp134", "block": 16},
        "x,w=mxfp4; dgrad_e,dgrad_w,wgrad_e,wgrad_x=fp32": {"x": "mxfp4", "w": "mxfp4"},
        "mine": {"name": "mine", "x": "mxfp4"},
    }  # fmt: skip
    assert {name: candidate(spec).name for name, spec in named.items()} == {name: name for name in named}
    hfp8 = candidate("recipe:hfp8")
    assert any("weights" in left for left in hfp8.left) and candidate("fp134").left == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [({"candidates": ["recipe:tetrajett"]}, "nearest is 'tetrajet'"), ({"candidates": [{"z": 1}]}, "Products"),
     ({"candidates": ["recipe:paper"]}, "leaves the format to you"), ({"candidates": [{"z": 1}]}, "wgrad_x"),
     ({"candidates": ["recipe:papers"]}, "there are bm4"), ({"candidates": "blocks4"}, "not a list"),
     ({"candidates": [{"name": "a", "x": "mxfp4"}, {"name": "a", "w": "mxfp4"}]}, "two candidates"),
     ({"menu": ["mxfp4"]}, "two formats"), ({"menu": ["mxfp4", "fp134"]}, "fp134/tensor"),
     ({"menu": ["mxfp4", "recipe:nvfp4"]}, "rules or layers"), ({"bound": 5.0}, "menu="), ({"slots": -1}, "slots=-1"),
     ({"menu": ["mxfp4", "nvfp4"], "budget": 3.0}, "below the cheapest"), ({"spend": "watts"}, "bits, hardware"),
     ({"menu": ["mxfp4", "nvfp4"], "bound": 0.01}, "the best of this menu"), ({"draws": 1}, "draws=1"),
     ({"candidates": [{"x": "mxfp4", "skip": ["nothing"]}]}, "matches no module"),
     ({"candidates": [{"x": {"format": "mxfp4", "transform": 128}}]}, "does not divide")],
    ids=str,
)  # fmt: skip
def test_mistakes_are_told(given: dict, said: str) -> None:
    model = convolutional(4)
    usual: dict = {"candidates": ["mxfp4"]}
    with pytest.raises(ValueError, match=said):
        lpt.search(model, [images(8, seed) for seed in range(2)], F.cross_entropy, **{**usual, **given})
    assert model.training and not any("forward" in vars(m) or m._forward_hooks for m in model.modules())
    assert len(menu_of(["fp32", "mxfp4"])) == 2
