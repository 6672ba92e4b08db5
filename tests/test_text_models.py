"""The LSTM and the Transformer: equal to torch's own, and every operand of every product on its grid."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import lpt
from lpt.dataflow.audit import Audit
from lpt.errors import UserError
from lpt.models import LSTMLanguageModel, Transformer
from lpt.models.lstm import LSTM, State
from lpt.models.transformer import sinusoids
from lpt.weights.parameters import quantizable


def same(ours: nn.Module, theirs: nn.Module) -> None:
    """Gradients under the same names."""
    grads = {name: p.grad for name, p in theirs.named_parameters()}
    assert {name for name, p in ours.named_parameters() if p.grad is not None} == set(grads)
    for name, grad in grads.items():
        torch.testing.assert_close(ours.get_parameter(name).grad, grad, rtol=1e-4, atol=1e-5)


# -- LSTM --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 3])
def test_the_lstm_equals_torchs(layers: int) -> None:
    torch.manual_seed(0)
    theirs, ours = nn.LSTM(5, 7, layers), LSTM(5, 7, layers)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    ours.load_state_dict(theirs.state_dict())
    x, h, c = torch.randn(6, 3, 5), torch.randn(layers, 3, 7), torch.randn(layers, 3, 7)
    results = []
    for model in (theirs, ours):
        inputs = [t.clone().requires_grad_() for t in (x, h, c)]
        if model is ours:
            y, state = ours(inputs[0], State(inputs[1].unbind(), inputs[2].unbind()))
            last = torch.stack(state.h), torch.stack(state.c)
        else:
            y, last = theirs(inputs[0], (inputs[1], inputs[2]))
        (y.square().sum() + last[0].sum() - last[1].square().sum()).backward()
        results.append((y, *last, *(t.grad for t in inputs)))
    torch.testing.assert_close(results[0], results[1])
    same(ours, theirs)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0])  # from zeros


def test_the_language_model_reads_on() -> None:
    torch.manual_seed(0)
    model = LSTMLanguageModel(11, width=6).eval()
    words = torch.randint(11, (3, 8))
    whole, _ = model(words)
    first, state = model(words[:, :5])
    torch.testing.assert_close(torch.cat([first, model(words[:, 5:], state.detach())[0]], 1), whole)
    assert whole.shape == (3, 8, 11)


def test_tied_weights_are_quantized_once() -> None:
    tied, free = LSTMLanguageModel(11, 6, 2), LSTMLanguageModel(11, 6, 2, tied=False)
    own = {f"lstm.weight_{part}_l{k}" for part in ("ih", "hh") for k in (0, 1)} | {"embedding.weight"}
    assert quantizable(tied).keys() == own and quantizable(free).keys() == own | {"decoder.weight"}
    lpt.QuantizedWeights(tied, "int4")
    assert tied.decoder.weight is tied.embedding.weight
    assert torch.equal(lpt.formats.get("int4").round(tied.decoder.weight, -4), tied.decoder.weight)


# -- Transformer -------------------------------------------------------------------------------------------------------


def transformer(**more: object) -> Transformer:
    torch.manual_seed(0)
    small = {"width": 16, "layers": 2, "heads": 4, "feedforward": 24, "dropout": 0.0, "longest": 20}
    return Transformer(30, 0, **{**small, **more})  # type: ignore[arg-type]


def sentences(count: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    source, target = (torch.randint(1, 30, (count, n), generator=generator) for n in (7, 6))
    source[1, 4:] = source[2, 2:] = target[2, 3:] = 0
    return source, target


def test_the_transformer_equals_torchs() -> None:
    model = transformer()
    ours = nn.ModuleDict({"encoder": model.encoder, "decoder": model.decoder})
    theirs = nn.Transformer(16, 4, 2, 2, 24, dropout=0.0, batch_first=True)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    padding = sentences()[0] == 0
    x, y = torch.randn(3, 7, 16), torch.randn(3, 6, 16)
    later = torch.ones(6, 6, dtype=torch.bool).triu(1)
    keep = ~padding[:, None, None]
    results = []
    for run in (
        lambda a, b: theirs(a, b, tgt_mask=later, src_key_padding_mask=padding, memory_key_padding_mask=padding),
        lambda a, b: model.decoder(b, model.encoder(a, keep), ~later, keep),
    ):
        inputs = [t.clone().requires_grad_() for t in (x, y)]
        out = run(*inputs)
        out.square().sum().backward()
        results.append((out, *(t.grad for t in inputs)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)
    same(ours, theirs)


def test_what_comes_later_and_padding_change_nothing() -> None:
    model = transformer().eval()
    source, target = sentences()
    scores = model(source, target)
    changed = target.clone()
    changed[:, 4:] = 9
    torch.testing.assert_close(model(source, changed)[:, :4], scores[:, :4])
    longer = torch.cat([source, torch.zeros(3, 2, dtype=torch.int64)], 1)
    torch.testing.assert_close(model(longer, target), scores)
    assert not torch.allclose(model(source, changed)[:, 4:], scores[:, 4:])


def test_token_by_token_gives_the_same_scores() -> None:
    model = transformer().eval()
    source, target = sentences()
    scores = model(source, target)
    memory, mask = model.encode(source)
    caches: list[dict[str, Tensor]] = [{} for _ in model.decoder.layers]
    for i in range(target.shape[1]):
        torch.testing.assert_close(model.following(target[:, i], i, memory, mask, caches), scores[:, i])


def test_positions_are_those_of_the_paper() -> None:
    table = sinusoids(9, 8)
    assert table[5, 4].item() == pytest.approx(math.sin(5 / 10000 ** (4 / 8)), abs=1e-6)
    assert table[5, 5].item() == pytest.approx(math.cos(5 / 10000 ** (4 / 8)), abs=1e-6)


@pytest.mark.parametrize(("tied", "count"), [("none", 3), ("target", 2), ("all", 1)])
def test_tied_embeddings(tied: str, count: int) -> None:
    model = transformer(tied=tied)
    names = [name for name in quantizable(model) if "layers" not in name]
    assert len(names) == count
    assert (model.output.weight is model.target.tokens.weight) == (tied != "none")
    assert not model.target.tokens.weight[0].any()


@pytest.mark.parametrize(
    "arguments",
    [{"width": 0}, {"width": 18}, {"width": 15, "heads": 5}, {"dropout": 1.0}, {"tied": "both"}, {"layers": 0}],
    ids=str,
)
def test_the_transformer_refuses(arguments: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"at least 1|must be even|is not one of"):
        transformer(**arguments)


def test_a_sentence_that_is_too_long_is_told() -> None:
    with pytest.raises(UserError, match=r"21 tokens; model\.longest=20"):
        transformer()(torch.ones(1, 21, dtype=torch.int64), torch.ones(1, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    "arguments", [{"vocabulary": 0}, {"vocabulary": 9, "width": 0}, {"vocabulary": 9, "dropout": 1}]
)
def test_the_lstm_refuses(arguments: dict[str, int]) -> None:
    with pytest.raises(UserError, match="at least 1"):
        LSTMLanguageModel(**arguments)


# -- the audit ---------------------------------------------------------------------------------------------------------


def lstm_loss(model: nn.Module, step: int, state: list[State]) -> Tensor:
    words = torch.randint(30, (4, 9), generator=torch.Generator().manual_seed(step))
    scores, after = model(words[:, :-1], *state)
    state[:] = [after.detach()]
    return nn.functional.cross_entropy(scores.flatten(0, 1), words[:, 1:].flatten())


def transformer_loss(model: nn.Module, step: int, state: list[State]) -> Tensor:
    source, target = sentences()
    return nn.functional.cross_entropy(model(source, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten())


AUDITED = {
    "lstm": (lambda: LSTMLanguageModel(30, width=12, layers=2), lstm_loss, "decoder"),
    "lstm untied": (lambda: LSTMLanguageModel(30, width=12, layers=1, tied=False), lstm_loss, "decoder"),
    "transformer": (lambda: transformer(dropout=0.2), transformer_loss, "output"),
    "transformer tied": (lambda: transformer(tied="all"), transformer_loss, "output"),
}


@pytest.mark.parametrize("name", AUDITED)
@pytest.mark.parametrize(
    "flow", [lpt.DataFlow(), lpt.DataFlow("fp143", "fp152", scaling="current")], ids=["fp134", "cur"]
)
def test_every_operand_is_on_its_grid(name: str, flow: lpt.DataFlow) -> None:
    """No excuse is needed. The error of the last product is the sum of two values; all else is one value."""
    torch.manual_seed(0)
    make, loss, last = AUDITED[name]
    model = make()
    handle = lpt.attach_(model, flow)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    weights = lpt.attach_weights_(model, optimizer, "log4_hyst")
    state: list[State] = []
    for step in range(3):
        optimizer.zero_grad()
        with Audit(handle, weights) as audit:
            loss(model, step, state).backward()
        handle.step()
        optimizer.step()
        assert audit.off_grid() == [] and audit.covered() == 1.0
    assert {o.module for o in audit.operands if "dual" in o.grid} == {last}
    used = {o.parameter for o in audit.operands if o.parameter}
    looked_up = {n for n in quantizable(model) if "embedding" in n or "tokens" in n}  # a gather, no product
    assert used >= set(quantizable(model)) - looked_up
    assert {o.backward for o in audit.operands} == {False, True}
    named = dict(model.named_modules())
    products = {n for n, m in named.items() if isinstance(m, (nn.Linear, lpt.ops.MatMul)) or n.endswith("from_hidden")}
    assert {o.module for o in audit.operands} >= products


def test_without_edges_the_hidden_state_leaves_the_grid() -> None:
    model = LSTMLanguageModel(30, width=12)
    handle = lpt.attach_(model)
    with handle.off(), Audit(handle) as audit:
        lstm_loss(model, 0, []).backward()
    assert "lstm.layers.0.from_hidden" in {o.module for o in audit.off_grid()}


def test_models_can_be_copied_and_report_themselves() -> None:
    model = copy.deepcopy(LSTMLanguageModel(30, width=12))
    handle = lpt.attach_(model)
    text = str(handle.report(torch.randint(30, (2, 3))))
    assert "lstm.layers.1.from_hidden" in text and "100.0 % of the forward" in text
