"""The search: the race against all evaluations, its result, resuming, costs, and mistakes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import attentive, convolutional, images
from torch import nn

import lpt
from lpt.report.ranking import draw
from lpt.search import Journal, Probe, cost
from lpt.search.race import estimates, race

FEW = ["fp134", "fp143", "fp152", "int8", "fp124", "int6", "fp132", "log4", "posit8_0", "int4"]


def field(formats: int = 501, batches: int = 100, seed: int = 0) -> np.ndarray:
    """Angles as measured ones look: from 1 degree upward, dense at the top, up and down with the batch."""
    generator = np.random.default_rng(seed)
    means = 1 + 0.06 * np.arange(formats) ** 0.9
    batch = generator.lognormal(0, 0.15, (batches, 1))
    return means * batch * generator.lognormal(0, 0.05, (batches, formats))


def agrees(top: list[int], x: np.ndarray) -> bool:
    """Is `top` the exhaustive top, up to formats closer than their paired standard error or 0.02 degrees?"""
    means = x.mean(0)
    true = set(np.argsort(means, kind="stable")[: len(top)].tolist())
    pairs = [(a, b) for a in set(top) - true for b in true - set(top)]
    errors = {(a, b): (x[:, a] - x[:, b]).std(ddof=1) / np.sqrt(len(x)) for a, b in pairs}
    return all(means[a] - means[b] <= max(0.02, errors[a, b]) for a, b in pairs)


# -- the race ----------------------------------------------------------------------------------------------------------


def test_the_race_keeps_its_word_and_is_ten_times_cheaper() -> None:
    x = field()
    right, spent = 0, 0
    for seed in range(20):
        y = x[np.random.default_rng(seed).permutation(len(x))]
        outcome = race(lambda n, formats, y=y: y[n, list(formats)], x.shape[1], len(x))
        right += agrees(outcome.order[:10], x)
        spent += int((~np.isnan(outcome.scores)).sum())
        assert outcome.doubt <= 0.05 and sorted(outcome.order) == list(range(x.shape[1]))
    assert right >= 19
    assert spent / 20 <= x.size / 10


def test_a_race_that_cannot_be_decided_runs_every_batch_and_is_then_exhaustive() -> None:
    generator = np.random.default_rng(0)
    x = 5 + generator.normal(0, 1, (8, 30))  # nothing but noise, eight batches
    outcome = race(lambda n, formats: x[n, list(formats)], 30, 8, top=5)
    survivors = ~np.isnan(outcome.scores[-1])
    assert outcome.scores.shape == (8, 30) and survivors.sum() > 5
    best = [i for i in np.argsort(x.mean(0)) if survivors[i]][:5]
    assert outcome.order[:5] == best


def test_formats_that_measure_the_same_are_decided_at_once() -> None:
    x = np.repeat(field(20), 3, axis=1)  # each thrice
    outcome = race(lambda n, formats: x[n, list(formats)], 60, 100, top=9)
    assert sorted(i // 3 for i in outcome.order[:9]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    again = race(lambda n, formats: np.ones(len(formats)), 60, 100, top=9)
    assert len(again.scores) == 2 and again.order[:9] == list(range(9)), "of equals the earlier"


def test_means_over_few_batches_are_made_comparable() -> None:
    batch = np.array([1.0, 1.0, 3.0, 3.0])
    scores = np.stack([batch * 2, batch * 3, np.array([5.0, 5.0, np.nan, np.nan])], axis=1)
    means, errors = estimates(scores, [0])
    assert means == pytest.approx([4, 6, 10])  # 5 on batches where the first had 2 of its 4
    assert errors[0] == pytest.approx((batch * 2).std(ddof=1) / 2)


# -- the search --------------------------------------------------------------------------------------------------------


def some_batches(count: int = 6) -> list:
    return [images(8, seed) for seed in range(count)]


def test_search_leaves_the_model_as_it_was_and_tells_everything(tmp_path: Path) -> None:
    model = convolutional(4).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ranking = lpt.search(model, some_batches(), F.cross_entropy, FEW, method="exhaustive", layers=2, top=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert [row.rank for row in ranking] == list(range(1, 11)) and ranking.evaluations == 60
    assert [row.both for row in ranking] == sorted(row.both for row in ranking)
    assert {row.name for row in ranking} == set(FEW) and {"int4", "log4"} <= {row.name for row in ranking[-4:]}
    assert [len(row.error_layers) for row in ranking] == [len(ranking.weights)] * 3 + [0] * 7
    text = str(ranking)
    assert "6 weights" in text and "room 0" in text and "fp134" in text and "± " in text
    lines = ranking.csv().splitlines()
    assert len(lines) == 11 and lines[0].startswith("rank,name,valid_bits,bits")
    assert len(draw(ranking, tmp_path, "test")) == 4
    assert all((tmp_path / f"{name}.svg").exists() for name in ("dynamic_range", "pareto", "layers"))


def test_means_and_errors_are_those_of_the_batches() -> None:
    model, batches = convolutional(4), some_batches()
    ranking = lpt.search(model, batches, F.cross_entropy, FEW, method="exhaustive", by="error")
    with Probe(model, lambda b: F.cross_entropy(model(b[0]), b[1])) as probe:
        found = [probe.at(batch)(lpt.formats.get("fp143")) for batch in batches]
    errors = torch.tensor([f.error for f in found]).double()
    row = ranking.find("fp143")
    assert row.error == pytest.approx(errors.mean().item()) and row.batches == 6
    assert row.error_se == pytest.approx(errors.std().item() / 6**0.5)
    both = torch.tensor([(f.error**2 + f.activation**2) ** 0.5 for f in found]).double()
    assert row.both == pytest.approx(both.mean().item())
    assert ranking.find("fp32") is None


def test_race_and_exhaustive_agree_on_a_network() -> None:
    model, batches = convolutional(4), some_batches(16)
    formats = lpt.formats.family(6)[::4]
    slow = lpt.search(model, batches, F.cross_entropy, formats, method="exhaustive", top=5)
    fast = lpt.search(model, batches, F.cross_entropy, formats, top=5)
    assert slow.evaluations == 42 * 16 and fast.evaluations < slow.evaluations / 2 and fast.confidence >= 0.95
    means = {row.name: row.both for row in slow}
    worst = max(means[row.name] for row in slow[:5])
    assert all(means[row.name] <= worst + 0.2 for row in fast[:5])


def test_models_with_embeddings_attention_and_tied_weights() -> None:
    model = attentive()
    model[5].weight = nn.Parameter(torch.randn(20, 8))
    model[5].bias = None
    model[0].weight = model[5].weight  # tied: the embedding's use of it has no activation
    words = [(torch.randint(20, (3, 5)), torch.randint(20, (15,))) for _ in range(3)]
    for activation in ("local", "propagated"):
        ranking = lpt.search(
            model, words, lambda out, y: F.cross_entropy(out.flatten(0, 1), y), ["fp134", "int4", "fp32"],
            method="exhaustive", activation=activation,
        )  # fmt: skip
        assert [row.name for row in ranking] == ["fp32", "fp134", "int4"]
        assert ranking[0].both == pytest.approx(0, abs=1e-4) and ranking[0].cost is None


def test_a_format_that_leaves_nothing_of_the_gradient_is_at_right_angles() -> None:
    model = convolutional(4)
    ranking = lpt.search(model, some_batches(2), lambda out, y: 1e-6 * F.cross_entropy(out, y), ["fixed8_0", "fp134"])
    assert ranking[1].name == "fixed8_0" and ranking[1].error == 90


# -- resuming ----------------------------------------------------------------------------------------------------------


def lines_of(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_a_killed_search_goes_on_without_losing_an_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    torch.set_num_threads(1)  # for the fork

    def search(watch) -> lpt.search.Ranking:
        return lpt.search(convolutional(4), some_batches(), F.cross_entropy, FEW, method="exhaustive",
                          journal=Journal(path, "key"), watch=watch)  # fmt: skip

    child = os.fork()
    if child == 0:
        search(lambda batch, alive: os.kill(os.getpid(), signal.SIGKILL) if batch == 3 else None)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert lines_of(path) == 1 + 3 * len(FEW)
    with path.open("a") as file:
        file.write('[4, "fp134", 0.1')  # killed while it wrote
    measured = []
    original = Probe.at
    try:
        Probe.at = lambda self, batch: measured.append(batch) or original(self, batch)
        again = search(lambda batch, alive: None)
    finally:
        Probe.at = original
    assert len(measured) == 3 and lines_of(path) == 1 + 6 * len(FEW)
    path.unlink()
    assert again.csv() == search(lambda batch, alive: None).csv()


def test_a_journal_of_another_search_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    with Journal(path, "one") as journal:
        journal.write(0, "fp134", lpt.search.Angles(1.0, 2.0, (3.0,), (4.0,)))
    assert Journal(path, "one").known == {(0, "fp134"): lpt.search.Angles(1.0, 2.0, (3.0,), (4.0,))}
    assert Journal(path, "two").known == {} and json.loads(path.read_text()) == {"key": "two"}


# -- costs -------------------------------------------------------------------------------------------------------------


def test_costs_by_hand() -> None:
    int8 = cost(lpt.formats.get("int8"))
    assert int8.multiplier == pytest.approx(49 * 1.33 + 42 * 6) and int8.exponent == int8.alignment == 0
    assert int8.accumulator == pytest.approx((14 + 10) * 14.4) and int8.decoder == 0, "127 * 127 has 14 bits"
    fp134 = cost(lpt.formats.get("fp134"))
    assert fp134.multiplier == pytest.approx(25 * 1.33 + 20 * 6)
    assert fp134.exponent == 3 * 6, "7 exponents, 3 bits"
    assert fp134.alignment == pytest.approx((11 + 13 + 17 + 22) * 0.94), "10 bits, shifted by 1, 2, 4 and 8, within 22"
    assert fp134.total < cost(lpt.formats.get("fp143")).total < cost(lpt.formats.get("fp152")).total
    assert cost(lpt.formats.get("posit8_0")).decoder > cost(lpt.formats.get("[7,5,11x3,2,1]")).decoder > 0


class Hidden(nn.Module):
    """An nn.LSTM, whose products no hook sees, and a layer that they do see."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x)[0]).flatten(0, 1)


def test_hidden_products_are_left_out_of_the_angle_and_said() -> None:
    batches = [(torch.randn(5, 2, 3), torch.randint(2, (10,))) for _ in range(2)]
    ranking = lpt.search(Hidden(), batches, F.cross_entropy, ["fp134"], method="exhaustive")
    assert ranking.weights == ["out.weight"] and "rnn (LSTM)" in str(ranking)
    assert ranking[0].activation > 0


def test_octaves_that_a_format_spans() -> None:
    batches = [(torch.randn(4, 3), torch.randint(2, (4,))) for _ in range(2)]
    ranking = lpt.search(nn.Linear(3, 2), batches, F.cross_entropy, ["fp134", "int8", "posit8_0", "posit8_1", "fp16"])
    octaves = {row.name: row.octaves for row in ranking}
    assert octaves == {"fp134": 11, "int8": 7, "posit8_0": 13, "posit8_1": 25, "fp16": None}


def test_the_pareto_front_holds_what_nothing_beats() -> None:
    ranking = lpt.search(convolutional(4), some_batches(2), F.cross_entropy, FEW, method="exhaustive")
    for row in ranking:
        place = (row.cost.total, row.both)
        others = [(o.cost.total, o.both) for o in ranking]
        beaten = any(c <= place[0] and angle <= place[1] and (c, angle) != place for c, angle in others)
        assert row.pareto == (not beaten)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [({"formats": []}, "empty"), ({"formats": ["fp99"]}, "fp99"), ({"formats": "fp134"}, "not a list"),
     ({"batches": some_batches(1)}, "at least|from 2 upward"), ({"method": "quick"}, "race, exhaustive"),
     ({"by": "weights"}, "error, activation, both"), ({"activation": "global"}, "local, propagated"),
     ({"confidence": 1.5}, "0.95"), ({"top": 0}, "top=0"),
     ({"loss": lambda out, y: F.cross_entropy(out, y) * torch.nan}, "nan"),
     ({"loss": lambda out, y: F.cross_entropy(out, y).detach()}, "no gradient"),
     ({"loss": lambda out, y: F.cross_entropy(out, y) * 0}, "no direction"),
     ({"loss": lambda out, y: F.cross_entropy(out, y, reduction="none")}, "one number"),
     ({"model": convolutional(4).requires_grad_(False)}, "no weight that requires a gradient"),
     ({"model": nn.LSTM(3, 4)}, "its products are inside LSTM, out of reach"),
     ({"batches": iter([])}, r"give list\(batches\)")],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_mistakes_are_told(given: dict, said: str) -> None:
    usual = {"model": convolutional(4), "batches": some_batches(2), "loss": F.cross_entropy, "formats": FEW}
    arguments = {**usual, **given}
    with pytest.raises(ValueError, match=said):
        lpt.search(**arguments)
    model = arguments["model"]
    assert not any(m._forward_hooks for m in model.modules()) and model.training
    with pytest.raises(ValueError, match="give an nn"):
        lpt.search(torch.relu, [], F.cross_entropy)
