"""The GPT: equal to equations written by hand, causal, on its grids; its windows of text, its runs, what it writes."""

from __future__ import annotations

import itertools
import math
import os
import runpy
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import write_text
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT, checkpoint, differences, run_folder, summary, train
from torch import Tensor, nn

import lpt
from lpt.data import Batches, text
from lpt.data.text import Text
from lpt.data.tokens import characters, words
from lpt.dataflow.audit import Audit
from lpt.errors import UserError
from lpt.models import GPT, LSTMLanguageModel
from lpt.models.gpt import Rotary, turns
from lpt.runs.sampling import Wish
from lpt.tasks.language import LanguageModelling
from lpt.tasks.sampling import go_on
from lpt.tasks.schedules import constant
from lpt.weights.parameters import quantizable

evaluate = runpy.run_path(str(ROOT / "scripts" / "evaluate.py"))["main"]
SMALL: dict[str, Any] = {"layers": 2, "width": 16, "heads": 2, "context": 12}
CHOICES = list(itertools.product(("layer", "rms"), ("learned", "rotary"), ("gelu", "swiglu")))


def gpt(vocabulary: int = 30, **more: Any) -> GPT:
    torch.manual_seed(0)
    model = GPT(vocabulary, **{**SMALL, **more})
    with torch.no_grad():
        for p in model.parameters():  # so that nothing is hidden by being near 0, or 1
            p.add_(0.2 * torch.randn_like(p))
    return model


def some(count: int = 3, length: int = 9) -> Tensor:
    return torch.randint(30, (count, length), generator=torch.Generator().manual_seed(1))


# -- the equations -----------------------------------------------------------------------------------------------------


def by_hand(p: dict[str, Tensor], tokens: Tensor, norm: str, positions: str, mlp: str) -> Tensor:
    """The scores of one text, token by token and head by head, by plain sums."""
    width, heads = SMALL["width"], SMALL["heads"]
    part = width // heads

    def normed(x: Tensor, name: str) -> Tensor:
        if norm == "rms":
            return x / ((x * x).sum() / width + 1e-5).sqrt() * p[f"{name}.weight"]
        x = x - x.sum() / width
        return x / ((x * x).sum() / width + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]

    def turned(x: Tensor, place: int) -> Tensor:
        if positions == "learned":
            return x
        pairs = torch.complex(x[: part // 2], x[part // 2 :])
        angles = [place / 10000 ** (2 * i / part) for i in range(part // 2)]
        pairs = pairs * torch.tensor([complex(math.cos(a), math.sin(a)) for a in angles], dtype=torch.complex128)
        return torch.cat([pairs.real, pairs.imag])

    def inner(x: Tensor, name: str) -> Tensor:
        up = p[f"{name}.up.weight"] @ x
        if mlp == "gelu":
            up = up * (1 + torch.erf(up / math.sqrt(2))) / 2
        else:
            gate = p[f"{name}.gate.weight"] @ x
            up = up * gate / (1 + torch.exp(-gate))
        return p[f"{name}.down.weight"] @ up

    xs = [p["tokens.weight"][t] for t in tokens]
    if positions == "learned":
        xs = [x + p["positions"][i] for i, x in enumerate(xs)]
    for k in range(SMALL["layers"]):
        name = f"blocks.{k}"
        seen = [normed(x, f"{name}.norm1") for x in xs]
        q, ks, vs = ([p[f"{name}.attention.{n}.weight"] @ x for x in seen] for n in ("query", "key", "value"))
        after = []
        for i, x in enumerate(xs):
            found = []
            for h in range(heads):
                own = slice(h * part, (h + 1) * part)
                scores = [turned(q[i][own], i) @ turned(ks[j][own], j) / math.sqrt(part) for j in range(i + 1)]
                shares = [s.exp() for s in scores]
                found.append(sum(s * vs[j][own] for j, s in enumerate(shares)) / sum(shares))
            x = x + p[f"{name}.attention.output.weight"] @ torch.cat(found)
            after.append(x + inner(normed(x, f"{name}.norm2"), f"{name}.mlp"))
        xs = after
    return torch.stack([p["output.weight"] @ normed(x, "norm") for x in xs])


@pytest.mark.parametrize(("norm", "positions", "mlp"), CHOICES)
def test_the_model_equals_the_equations(norm: str, positions: str, mlp: str) -> None:
    model = gpt(norm=norm, positions=positions, mlp=mlp, tied=mlp == "gelu").double()
    p = dict(model.named_parameters(remove_duplicate=False))
    tokens = some(2, 7)
    expected = torch.stack([by_hand(p, row, norm, positions, mlp) for row in tokens])
    scores = model(tokens)
    torch.testing.assert_close(scores, expected, rtol=1e-10, atol=1e-10)
    y = torch.randn_like(scores)
    inputs = [v for _, v in model.named_parameters()]
    for ours, theirs in zip(*(torch.autograd.grad((s * y).sum(), inputs) for s in (scores, expected)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_a_rotation_sees_distances_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).expand(2, 1, 1, 11, 8)
    table = turns(11, 8, q)
    turned = Rotary()(q, table)[0, 0] @ Rotary()(k, table)[0, 0].T
    for distance in range(-10, 11):
        along = turned.diagonal(distance)
        torch.testing.assert_close(along, along[0].expand_as(along), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(turned[0, 0], q[0, 0, 0] @ k[0, 0, 0])
    assert turned[0].unique().numel() == 11


def test_how_it_begins() -> None:
    """GPT-2's initialization, and sizes from 0.5 to 10 million parameters by settings."""
    torch.manual_seed(0)
    model = GPT(1000, layers=4, width=128, tied=False)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            wanted = 0.02 / math.sqrt(8) if name.endswith(("attention.output.weight", "down.weight")) else 0.02
            assert p.std().item() == pytest.approx(wanted, rel=0.03), name
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in GPT(v, n, w).parameters()) for v, n, w in ((100, 3, 128), (1000, 5, 400))]
        gated = sum(p.numel() for p in GPT(1000, mlp="swiglu").parameters())
    assert 0.5e6 < sizes[0] < 0.7e6 and 9.5e6 < sizes[1] < 10.5e6
    assert gated == pytest.approx(sum(p.numel() for p in model.parameters()) - 128_000, rel=0.05)


# -- causality, grids --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", [None, "fp134"])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_no_token_sees_what_follows_it(positions: str, format: str | None) -> None:
    model = gpt(positions=positions, norm="rms" if format else "layer")
    if format:
        flow = lpt.attach_(model, lpt.DataFlow(format, format, format))
        model(some()).sum().backward()
        flow.step()
    model.eval()
    tokens = some()
    scores = model(tokens)
    for t in range(1, tokens.shape[1]):
        changed = tokens.clone()
        changed[:, t:] = (changed[:, t:] + 11) % 30
        other = model(changed)
        assert torch.equal(other[:, :t], scores[:, :t]) and not torch.equal(other[:, t], scores[:, t])


@pytest.mark.parametrize(
    "flow", [lpt.DataFlow(), lpt.DataFlow("fp143", "fp152", scaling="current")], ids=["fp134", "cur"]
)
@pytest.mark.parametrize(("norm", "positions", "mlp", "tied"), [
    ("layer", "learned", "gelu", True), ("rms", "rotary", "swiglu", False),
])  # fmt: skip
def test_every_operand_is_on_its_grid(norm: str, positions: str, mlp: str, tied: bool, flow: lpt.DataFlow) -> None:
    model = gpt(norm=norm, positions=positions, mlp=mlp, tied=tied, dropout=0.1, layers=1)
    handle = lpt.attach_(model, flow)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    weights = lpt.attach_weights_(model, optimizer, "log4_hyst")
    tokens = some()
    for _ in range(2):
        optimizer.zero_grad()
        with Audit(handle, weights) as audit:
            nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        handle.step()
        optimizer.step()
        assert audit.off_grid() == [] and audit.covered() == 1.0
    assert {o.module for o in audit.operands if "dual" in o.grid} == {"output"}
    products = {n for n, m in model.named_modules() if isinstance(m, (nn.Linear, lpt.ops.MatMul))}
    for backward in (False, True):
        assert {o.module for o in audit.operands if o.backward == backward} == products
    wanted = {n for n, p in model.named_parameters() if p.ndim > 1 and n != "positions"}
    assert set(quantizable(model)) == wanted and ("output.weight" in wanted) != tied
    assert "100.0 % of the forward" in str(handle.report(tokens))


def test_without_edges_values_leave_the_grid() -> None:
    model = gpt(positions="rotary", layers=1)
    handle = lpt.attach_(model)
    with handle.off(), Audit(handle) as audit:
        model(some()).sum().backward()
    assert "blocks.0.attention.attention.scores" in {o.module for o in audit.off_grid()}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"width": 18, "heads": 4}, r"model\.width=18.*heads=4"),
        ({"width": 6, "positions": "rotary"}, "an even width"),
        ({"layers": 0}, r"model\.layers=0"),
        ({"context": 2.5}, r"model\.context=2\.5"),
        ({"feedforward": 0}, r"model\.feedforward=0"),
        ({"dropout": 1.0}, r"model\.dropout=1\.0"),
        ({"norm": "batch"}, "'batch' is not one of layer, rms"),
        ({"positions": "alibi"}, "'alibi' is not one of learned, rotary"),
        ({"mlp": "relu"}, "'relu' is not one of gelu, gelu_tanh, swiglu"),
    ],
    ids=str,
)
def test_it_refuses(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        gpt(**arguments)


def test_a_text_that_is_too_long_is_told() -> None:
    for positions in ("learned", "rotary"):
        with pytest.raises(UserError, match=r"13 tokens; model\.context=12"):
            gpt(positions=positions)(some(1, 13))


# -- the text it reads -------------------------------------------------------------------------------------------------


def test_windows() -> None:
    windows = Text(torch.arange(23)).windows(5)
    xs, ys = zip(*Batches(windows, 3), strict=True)  # 0..4, 5..9, 10..14, 15..19; what follows 20 has no example
    assert torch.equal(torch.cat(xs).flatten(), torch.arange(20)) and torch.equal(torch.cat(ys), torch.cat(xs) + 1)
    drawn = Batches(windows, 2, shuffle=True, drop_last=True)
    starts = set()
    for epoch in range(60):
        drawn.set_epoch(epoch)
        for x, y in drawn:
            assert x.shape == (2, 5) and torch.equal(x, x[:, :1] + torch.arange(5)) and torch.equal(y, x + 1)
            starts |= set(x[:, 0].tolist())
    assert starts == set(range(18))  # the last one ends with the text
    assert len(Text(torch.arange(6)).windows(5)) == 1
    with pytest.raises(UserError, match="5 tokens is too short"):
        Text(torch.arange(5)).windows(5)


LETTERS = st.text("ab \n", max_size=30)


@settings(max_examples=50)
@given(LETTERS)
def test_characters_come_back(written: str) -> None:
    tokens = characters(["a b"], 0, None)
    assert tokens.vocabulary == ["a", " ", "b", "<eos>", "<unk>"]
    assert tokens.decode(tokens.encode(written)) == written
    assert [*tokens.encode(written), tokens.end] == tokens.of_lines(written.split("\n")).tolist()


@settings(max_examples=50)
@given(written=st.text(st.characters(exclude_categories=["Cs"]), max_size=30).filter(lambda s: "<" not in s))
def test_subwords_come_back(written: str, tokenizer: Any) -> None:
    assert tokenizer.decode(tokenizer.encode(written)) == written


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_text(tmp_path_factory.mktemp("text"))
    return text(path=str(folder), tokens="bpe", vocabulary_size=280, cache=str(folder)).tokens


def test_words_come_back_with_single_blanks() -> None:
    tokens = words(["b  a"], 0, None)
    assert tokens.decode(tokens.encode("a  b\n\nb c")) == "a b\n\nb <unk>" and tokens.unknown(["b c", "d"]) == [
        "c",
        "d",
    ]


# -- the task ----------------------------------------------------------------------------------------------------------


COMMON: dict[str, Any] = {"optimizer": partial(torch.optim.SGD, lr=1.0), "scheduler": constant, "seed": 0}


def language(folder: Path, context: int = 12, **more: Any) -> LanguageModelling:
    data = text(path=str(write_text(folder)), tokens="characters")
    model = gpt(**data.model_arguments(), context=context)
    common = {**COMMON, "bptt": 8}
    return LanguageModelling(model, data, **{**common, "batch_size": 4, "eval_batch_size": 5, **more})  # type: ignore


def test_each_stretch_is_read_by_itself(tmp_path: Path) -> None:
    task = language(tmp_path).eval()
    first, second, *_ = task.val_batches()
    alone = task.loss(second)[0]
    task.validation_step(first, 0)
    assert task.validation_step(second, 1)["loss"] == alone and first[0].shape == (5, 8)
    orders = []
    for epoch in (0, 1, 0):
        loader = task.train_batches()
        loader.set_epoch(epoch)
        orders.append(torch.cat([x for x, _ in loader]))
    assert torch.equal(orders[0], orders[2]) and not torch.equal(orders[0], orders[1])
    with pytest.raises(UserError, match=r"task\.bptt=13 is more than model\.context=12"):
        language(tmp_path, bptt=13)


def test_what_is_drawn_has_the_models_chances(tmp_path: Path) -> None:
    scores = torch.tensor([0.0, math.log(2), math.log(5), -torch.inf])
    drawn = torch.tensor(go_on(lambda tokens: scores, [0], 4000, 1.0, torch.Generator().manual_seed(0)))
    shares = torch.bincount(drawn, minlength=4) / 4000
    torch.testing.assert_close(shares, torch.tensor([1 / 8, 2 / 8, 5 / 8, 0]), rtol=0, atol=0.03)
    for temperature in (0.0, 1e-300):
        assert go_on(lambda tokens: scores, [0], 3, temperature, torch.Generator()) == [2, 2, 2]


def test_a_sample_follows_its_prompt(tmp_path: Path) -> None:
    task = language(tmp_path, context=8).eval()
    written = task.sample(20, 0.0, prompt="a dog\nsees")
    tokens = task.data.tokens.encode("a dog\nsees")
    for _ in range(20):
        tokens.append(int(task.model(torch.tensor([tokens[-8:]]))[0, -1].argmax()))
    assert written == task.data.tokens.decode(tokens) and written.startswith("a dog\nsees")
    assert task.sample(30, seed=1) == task.sample(30, seed=1) != task.sample(30, seed=2)
    with pytest.raises(UserError, match=r"characters that the training text has not: \$, ü"):
        task.sample(1, prompt="a ü$")


def test_what_remembers_reads_on_while_it_writes(tmp_path: Path) -> None:
    data = text(path=str(write_text(tmp_path)))
    torch.manual_seed(0)
    model = LSTMLanguageModel(width=8, **data.model_arguments())
    task = LanguageModelling(model, data, **COMMON, batch_size=4, eval_batch_size=4).eval()
    tokens = data.tokens.encode("a dog")
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)  # so that what is long ago counts
        for _ in range(12):
            tokens.append(int(model(torch.tensor([tokens]))[0][0, -1].argmax()))
    assert task.sample(12, 0.0, prompt="a dog") == data.tokens.decode(tokens)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sample=0"], "sample=0: give a number of tokens"),
        (["sample=x"], "sample=x"),
        (["sample=1", "temperature=-1"], "temperature=-1: give a number from 0"),
        (["sample=1", "temperature=inf"], "temperature=inf"),
        (["sample=1", "seed=1.5"], r"seed=1\.5"),
        (["seed=1", "format=int8"], "add sample=N"),
    ],
    ids=str,
)
def test_a_wish_that_cannot_be_fulfilled(arguments: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Wish.among(arguments)


def test_a_wish_among_other_arguments() -> None:
    wish, others = Wish.among(["format=int8", "prompt=a = b, 'c'", "sample=5"])
    assert wish == Wish(5, 1.0, 0, "a = b, 'c'") and others == ["format=int8"]
    assert Wish.among(["format=int8"]) == (None, ["format=int8"])
    with pytest.raises(UserError, match="sample=5: Identity goes on from no prompt, task=language does"):
        wish.of(nn.Identity())  # type: ignore[arg-type]


# -- a run -------------------------------------------------------------------------------------------------------------

RUN = (
    "experiment=gpt_pydoc", "data=text", "data.tokens=characters", "model.width=16", "model.layers=1", "model.heads=2",
    "model.context=16", "model.dropout=0.1", "trainer.batch_size=8", "trainer.eval_batch_size=8", "weights=int8_hyst",
    "data.train_limit=null", "trainer.epochs=2", "trainer.log_every=10", "optimizer.lr=0.02",
)  # fmt: skip


def test_a_run_learns_is_continued_and_writes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = f"data.path={write_text(tmp_path, 100)}"
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train(whole, *RUN, data) == 0
    seen = itertools.count(1)
    train_loss = LanguageModelling.train_loss

    def stopped(task: LanguageModelling, *batch: Any) -> Any:
        if next(seen) == 35:  # neither the end of an epoch nor a step with a checkpoint
            os.kill(os.getpid(), signal.SIGTERM)
        return train_loss(task, *batch)

    monkeypatch.setattr(LanguageModelling, "train_loss", stopped)
    assert train(halves, *RUN, data) == 75 and summary(halves)["status"] == "stopped"
    assert train(halves, *RUN, data, "resume=true") == 0
    assert differences(checkpoint(whole), checkpoint(halves)) == []
    found = summary(whole)
    assert found["val/perplexity"] < 0.9 * found["unigram_perplexity"] and found["model"] == "gpt"
    capfd.readouterr()
    run = str(run_folder(whole))
    outs = []
    for more in ([], ["sample=40", "seed=1", "prompt=a dog"]):
        assert evaluate([run, *more]) == 0
        outs.append(capfd.readouterr().out)
    figures, _, written = outs[1].partition("\n\n")
    assert "val/perplexity" in figures and figures.strip() == outs[0].strip()
    assert written.startswith("a dog") and len(written) > 40
    assert evaluate([run, "sample=4", "prompt=%"]) == 2
    assert "characters that the training text has not: %" in capfd.readouterr().err
