"""Language modelling and translation: what is learned, carried over, searched, measured and written."""

from __future__ import annotations

import itertools
import math
import runpy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import write_pairs, write_text
from running import ROOT, checkpoint, metrics, run_folder, summary, train
from torch import Tensor, nn

from lpt.data import parallel, text
from lpt.errors import UserError
from lpt.models import LSTMLanguageModel, Transformer
from lpt.tasks.beam import beam_search
from lpt.tasks.language import LanguageModelling
from lpt.tasks.schedules import constant, inverse_sqrt
from lpt.tasks.translation import Translation

evaluate = runpy.run_path(str(ROOT / "scripts" / "evaluate.py"))["main"]
COMMON: dict[str, Any] = {"optimizer": partial(torch.optim.SGD, lr=1.0), "scheduler": constant, "seed": 0}


def language(folder: Path, bptt: int = 5, batch_size: int = 4, **more: Any) -> LanguageModelling:
    data = text(path=str(write_text(folder)))
    torch.manual_seed(0)
    model = LSTMLanguageModel(width=8, dropout=0.0, **data.model_arguments())
    sizes = {"batch_size": batch_size, "eval_batch_size": batch_size}
    return LanguageModelling(model, data, **{**COMMON, **sizes, "bptt": bptt, **more})


def translation(folder: Path, **more: Any) -> Translation:
    data = parallel(path=str(write_pairs(folder)), vocabulary_size=300, cache=str(folder / "cache"))
    torch.manual_seed(0)
    model = Transformer(width=16, layers=1, heads=2, feedforward=16, dropout=0.0, **data.model_arguments())
    return Translation(model, data, **{**COMMON, "batch_size": 4, "eval_batch_size": 5, **more})


# -- language modelling ------------------------------------------------------------------------------------------------


def test_a_text_read_in_pieces_costs_what_it_costs_in_one(tmp_path: Path) -> None:
    losses = []
    for bptt in (3, 1000):
        task = language(tmp_path, bptt).eval()
        steps = [task.validation_step(batch, i) for i, batch in enumerate(task.val_batches())]
        total = sum(step["size"] for step in steps)
        losses.append(sum(step["loss"] * step["size"] for step in steps) / total)
        assert total == 4 * (len(task.data.val) // 4 - 1)
    torch.testing.assert_close(*losses)


def test_what_is_carried_over(tmp_path: Path) -> None:
    task = language(tmp_path)
    first, second, *_ = task.train_batches()
    losses = [task.training_step(batch, i)["loss"] for i, batch in enumerate((first, second))]
    for loss in losses:
        loss.backward()  # would fail for the second one if the first one's graph went on into it
    again = [task.training_step(batch, i)["loss"] for i, batch in enumerate((first, second))]
    assert again == losses  # a new pass starts from nothing
    task.training_step(first, 0)
    task.validation_step(first, 0)
    alone = task.loss(second)[0]  # neither a validation nor a probe touches what training carries
    assert task.training_step(second, 1)["loss"] == losses[1] != alone


def test_figures_of_language(tmp_path: Path) -> None:
    task = language(tmp_path)
    assert task.derived({"loss": math.log(7)})["perplexity"] == pytest.approx(7)
    assert math.isnan(task.derived({"loss": math.nan})["perplexity"])
    assert task.derived({"loss": 1e6})["perplexity"] > 1e300
    x, y = task.probe_batch(6)
    assert x.shape == (6, 5) and torch.equal(x[:, 1:], y[:, :-1])
    assert task.batches_per_epoch(2) == math.ceil((len(task.data.train) // 8 - 1) / 5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [({"bptt": 0}, "bptt=0"), ({"eval_batch_size": 500}, "too short for 500"), ({"data": None}, "TextData")],
    ids=str,
)
def test_language_refuses(tmp_path: Path, arguments: dict, says: str) -> None:
    if "data" in arguments:
        arguments = {"data": parallel(path=str(write_pairs(tmp_path)), vocabulary_size=300, cache=str(tmp_path))}
        with pytest.raises(UserError, match=says):
            LanguageModelling(nn.Identity(), arguments["data"], **COMMON, batch_size=1, eval_batch_size=1)
        return
    with pytest.raises(UserError, match=says):
        language(tmp_path, **arguments)


LANGUAGE = (
    "experiment=lstm_ptb", "data=text", "data.train_limit=null", "model.dropout=0.1", "trainer.batch_size=4",
    "trainer.eval_batch_size=4", "task.bptt=6", "optimizer.lr=10",
)  # fmt: skip


def test_a_language_run_learns_and_is_evaluated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = f"data.path={write_text(tmp_path, 300)}"
    more = (
        "model.width=16",
        "model.layers=1",
        "task.bptt=10",
        "trainer.epochs=3",
        "weights=int8_hyst",
        "progress=true",
    )
    more = (*more, "indicators=default", "indicators.angles.every=50")
    assert train(tmp_path / "out", *LANGUAGE, *more, "indicators.angles.batch_size=4", data) == 0
    said = capfd.readouterr()
    found = summary(tmp_path / "out")
    assert found["val/perplexity"] == pytest.approx(math.exp(found["val/loss"]))
    assert 2 < found["best/val/perplexity"] <= found["val/perplexity"] < found["unigram_perplexity"]
    assert {"train/perplexity", "train/loss", "flip_frequency", "angle/flow", "saturation"} <= found.keys()
    assert "val/perplexity=" in said.err and "tokens" in said.err
    assert "perplexity" in said.out and "frequencies of the words alone" in said.out and "accuracy" not in said.out
    run = str(run_folder(tmp_path / "out"))
    for arguments, same in (([run], True), ([run, "weights=int4"], False), ([run, "format=fp32"], False)):
        assert evaluate(arguments) == 0
        figures = dict(line.split() for line in capfd.readouterr().out.splitlines())
        assert (float(figures["val/perplexity"]) == pytest.approx(found["val/perplexity"], rel=1e-4)) == same


def test_the_carried_state_is_saved(tmp_path: Path) -> None:
    write_text(tmp_path)
    data = f"data.path={tmp_path}"
    assert train(tmp_path / "out", *LANGUAGE, "trainer.max_steps=5", data) == 0
    ((h, c),) = checkpoint(tmp_path / "out")["carried"]
    assert [t.shape for t in (*h, *c)] == [(4, 8)] * 4 and all(t.any() for t in (*h, *c))  # batch size, width


# -- translation -------------------------------------------------------------------------------------------------------


def test_the_loss_is_torchs_smoothed_cross_entropy(tmp_path: Path) -> None:
    task = translation(tmp_path, label_smoothing=0.2)
    batch = task.data.train.batch(torch.tensor([0, 9, 5, 7]), None)
    source, target, _ = batch
    scores, labels = task.model(source, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten()
    loss, others = task.loss(batch)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(scores, labels, ignore_index=0, label_smoothing=0.2))
    torch.testing.assert_close(others["nll"], nn.functional.cross_entropy(scores, labels, ignore_index=0))
    assert task.size(batch) == int((labels != 0).sum()) < labels.numel()
    assert task.derived({"loss": 9.0, "nll": math.log(3)})["perplexity"] == pytest.approx(3)


def test_bleu_is_of_the_text_as_it_was_written(tmp_path: Path) -> None:
    task = translation(tmp_path)
    task.translations = dict(reversed(list(enumerate(task.data.val.texts))))
    assert task.collected()["bleu"] == pytest.approx(100)
    signature = task.notes()["bleu_signature"]
    assert "tok:13a" in signature and "case:mixed" in signature and "version:" in signature
    task.translations = {0: task.data.val.texts[0], 1: "nothing of the kind"}
    assert task.collected()["bleu"] < 80


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"beam": 0}, "beam=0"),
        ({"bleu_every": 0}, "bleu_every=0"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"length_penalty": "x"}, "length_penalty='x'"),
    ],
    ids=str,
)
def test_translation_refuses(tmp_path: Path, arguments: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        translation(tmp_path, **arguments)


def scored(model: Transformer, source: Tensor, tokens: list[int]) -> float:
    """log p of a whole translation."""
    target = torch.tensor([[1, *tokens]])
    shares = model(source[None], target[:, :-1]).log_softmax(-1)[0]
    return shares.gather(1, target[0, 1:, None]).sum().item()


@pytest.fixture
def chooser() -> tuple[Transformer, Tensor]:
    """A model over 6 tokens, two of which are words, and sentences of different lengths."""
    torch.manual_seed(3)
    model = Transformer(6, 0, width=8, layers=1, heads=2, feedforward=8, dropout=0.0).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    return model, torch.tensor([[3, 4, 5, 3, 2], [4, 2, 0, 0, 0]])


def test_a_wide_beam_finds_the_best_translation(chooser: tuple[Transformer, Tensor], monkeypatch: Any) -> None:
    model, source = chooser
    source = source[1:, :2]
    monkeypatch.setattr("lpt.tasks.beam.longest", lambda lengths: lengths * 0 + 4)
    candidates = [[*words, 2] for n in range(4) for words in itertools.product((3, 4, 5), repeat=n)]
    with torch.no_grad():
        best = {
            penalty: max(candidates, key=lambda c: scored(model, source[0], c) / len(c) ** penalty)
            for penalty in (0.0, 1.0)
        }
    for penalty, expected in best.items():
        (found,) = beam_search(model, source, 1, 2, beam=60, length_penalty=penalty)
        assert found == expected[:-1]


def test_a_beam_of_one_is_greedy_and_sentences_do_not_mix(chooser: tuple[Transformer, Tensor]) -> None:
    model, source = chooser
    together = beam_search(model, source, 1, 2, beam=1)
    for row, found in zip(source, together, strict=True):
        row = row[row != 0][None]
        tokens = [1]
        with torch.no_grad():
            while tokens[-1] != 2 and len(tokens) < row.shape[1] * 3 // 2 + 10:
                scores = model(row, torch.tensor([tokens]))[0, -1]
                scores[[0, 1]] = -torch.inf
                tokens.append(int(scores.argmax()))
        assert found == [t for t in tokens[1:] if t != 2]
        assert beam_search(model, row, 1, 2, beam=1) == [found]
    for beam in (2, 5):
        alone = [beam_search(model, row[row != 0][None], 1, 2, beam)[0] for row in source]
        assert beam_search(model, source, 1, 2, beam) == alone


TRANSLATION = (
    "experiment=transformer_iwslt14", "data=parallel", "data.vocabulary_size=300", "data.train_limit=null",
    "model.layers=1", "model.feedforward=32", "model.dropout=0", "trainer.batch_size=20", "task.beam=2",
    "optimizer.lr=0.01",
)  # fmt: skip


def test_a_translation_run_learns_and_is_evaluated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = (f"data.path={write_pairs(tmp_path, 400)}", f"data.cache={tmp_path / 'cache'}")
    more = (
        "model.width=32",
        "trainer.epochs=8",
        "task.bleu_every=5",
        "format=fp134",
        "weights=int8_hyst",
        "progress=true",
    )
    assert train(tmp_path / "out", *TRANSLATION, *more, *data) == 0
    said = capfd.readouterr()
    found = summary(tmp_path / "out")
    assert found["val/bleu"] > 20 and found["val/perplexity"] == pytest.approx(math.exp(found["val/nll"]))
    assert "tok:13a" in found["bleu_signature"] and found["bleu_signature"] in said.out
    logged = [row["epoch"] for row in metrics(tmp_path / "out") if row.get("val/bleu")]
    assert logged == ["4", "7"]
    assert "val/bleu=" in said.err and "sentence pairs" in said.err
    run = str(run_folder(tmp_path / "out"))
    assert evaluate([run]) == 0
    figures = dict(line.split() for line in capfd.readouterr().out.splitlines())
    for name in ("val/bleu", "val/loss", "val/perplexity"):
        assert float(figures[name]) == pytest.approx(found[name], rel=1e-4)
    assert evaluate([run, "weights=int2"]) == 0
    other = dict(line.split() for line in capfd.readouterr().out.splitlines())
    assert float(other["val/perplexity"]) > 1.05 * found["val/perplexity"]


# -- both --------------------------------------------------------------------------------------------------------------


def test_inverse_square_root() -> None:
    factor = inverse_sqrt(100, warmup=0.16)
    assert [factor(step) for step in (0, 7, 15, 16, 64)] == [1 / 16, 0.5, 1, 1, 0.5]
    assert inverse_sqrt(100, warmup=0.0)(0) == 1


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("model=lstm",), "does not go with data=digits"),
        (("experiment=lstm_ptb",), "data.path is missing"),
        (("experiment=transformer_iwslt14",), "WIT3"),
        (("experiment=lstm_ptb", "data=text", "data.path=TEXT", "data.train_limit=null", "model=resnet8"), "data=text"),
        (
            ("data=text", "data.path=TEXT", "data.train_limit=null", "model=lstm"),
            "Classification learns from ImageData",
        ),
        (
            ("experiment=lstm_ptb", "data=text", "data.path=TEXT", "data.train_limit=null"),
            "too short for 10 columns|columns",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_does_not_go_together(
    tmp_path: Path, overrides: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_text(tmp_path, 10)
    given = [o.replace("TEXT", str(tmp_path)) for o in overrides]
    assert train(tmp_path / "out", "trainer.batch_size=100", *given) == 2
    error = capfd.readouterr().err
    assert any(part in error for part in says.split("|")) and "Traceback" not in error
    assert not (tmp_path / "out").exists()
