"""How much is on the grids is told, with what is not; parts of a model of one's own are made visible by themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from running import summary, train
from torch import Tensor, nn
from torch.nn import functional

import lpt
from lpt.dataflow.auditing import coverage


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.size()
        q, k, v = self.qkv(x).split(width, 2)
        q, k, v = (part.view(n, t, 2, width // 2).transpose(1, 2) for part in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(n, t, width))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, width), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """As people write them: an assert on the length, positions of a range, a loop over the blocks."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, width), nn.Embedding(6, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 11, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] <= 6
        x = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@pytest.fixture
def model() -> GPT:
    torch.manual_seed(0)
    return GPT()


TOKENS = torch.arange(10).view(2, 5)


def covered(model: nn.Module, x: Tensor = TOKENS, **options: Any) -> Any:
    flow = lpt.attach_(model, lpt.DataFlow())
    weights = lpt.attach_weights_(model, torch.optim.SGD(model.parameters(), 0.1), "int4", **options)
    found = coverage(flow, lambda: model(x), weights)
    text = str(flow.report(x))
    weights.remove()
    flow.remove()
    return found, text


def test_what_is_missing_is_told_and_visible_parts_mend_it(model: GPT) -> None:
    before = model(TOKENS)
    found, text = covered(model)
    assert 0.5 < found.share < 0.9 and found.kinds == ("A", "E", "W") and not found.failed
    assert set(found.missing) == {"products in blocks.*.attention", "products in blocks.*.attention.out"}
    assert "visible_(model, x)" in str(found)
    row = next(line.split() for line in text.splitlines() if line.startswith("blocks.0.attention.out"))
    assert row[:6] == ["blocks.0.attention.out", "Linear", "fp134", "fp134", "int4", "fp134"] and row[6:8] == ["0", "%"]
    names = set(model.state_dict())
    assert lpt.models.visible_(model, TOKENS) == {}
    assert set(model.state_dict()) == names and torch.allclose(model(TOKENS), before, atol=1e-6)
    found, text = covered(model)
    assert found.share == 1.0 and found.missing == () and "100.0 % of the multiplications" in str(found)
    assert "100.0 % of the forward multiply-accumulates use quantized activations and weights" in text


def test_visible_says_which_parts_it_left_and_ties_stay(model: GPT) -> None:
    model.blocks.append(model.blocks[0])
    bad = Block(8)
    bad.attention.forward = lambda x: x * len(x)  # type: ignore[method-assign]
    model.blocks.append(bad)
    left = lpt.models.visible_(model, TOKENS)
    assert set(left) == {"blocks.3", "blocks.3.attention"} and "len" in left["blocks.3"]
    assert model.blocks[0] is model.blocks[2] and type(model.blocks[3]) is Block
    assert model.training


def test_a_weight_in_full_precision_is_not_covered(model: GPT) -> None:
    lpt.models.visible_(model, TOKENS)
    found, _ = covered(model, skip=["head.weight"])
    assert found.share < 1 and found.missing == ("head.weight, not quantized",)
    flow = lpt.attach_(model, lpt.DataFlow())
    assert coverage(flow, lambda: model(TOKENS)).kinds == ("A", "E")  # all weights, by choice
    assert "W in full precision" in str(coverage(flow, lambda: model(TOKENS)))


def test_hidden_products_are_called_so() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.mix(x, x, x, need_weights=False)[0])

    found, _ = covered(Net(), torch.randn(2, 4, 8))
    assert found.hidden and "hide their products" in str(found) and found.missing[0] == "products in mix"


def test_a_run_tells_its_coverage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = ("trainer.max_steps=2", "data.train_limit=32")
    assert train(tmp_path / "a", *few) == 0
    assert (
        "coverage: 100.0 % of the multiplications have both operands on the grids of A, E, W" in capfd.readouterr().err
    )
    assert summary(tmp_path / "a")["coverage"] == 1 and summary(tmp_path / "a")["coverage_missing"] == ""
    assert train(tmp_path / "b", *few, "weights.skip=[conv.weight]") == 0
    assert "conv.weight, not quantized" in capfd.readouterr().err and summary(tmp_path / "b")["coverage"] < 1
    assert train(tmp_path / "c", *few, "format=fp32", "weights=mxfp4", "products=mxfp4") == 0
    assert summary(tmp_path / "c")["coverage"] == 1
    assert train(tmp_path / "d", *few, "format=fp32", "weights=fp32") == 0
    assert "nothing is rounded" in capfd.readouterr().err
    assert train(tmp_path / "e", *few, "format=fp32", "weights=fp32", "products=custom", "products.x=mxfp4") == 0
    told = capfd.readouterr().err
    assert "conv (not in all of its slots)" in told and "visible_" not in told, "by choice: no cure is needed"


def loop(model: nn.Module, calls: int, sparse: bool = False) -> None:
    flow = lpt.attach_(model, lpt.DataFlow())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=sparse)
        model(torch.randn(4, 3)).sum().backward()
        for _ in range(calls):
            flow.step()
        optimizer.step()


@pytest.mark.parametrize("none", [True, False])
@pytest.mark.parametrize(("calls", "said"), [(0, "without flow.step"), (2, "twice for the same gradients")])
def test_a_step_that_is_forgotten_or_doubled_is_told_once(calls: int, said: str, none: bool) -> None:
    with pytest.warns(UserWarning, match=said) as told:
        loop(nn.Linear(3, 2), calls, none)
    assert len(told) == 1
    loop(nn.Linear(3, 2), 1, none)  # warnings are errors


def test_a_skipped_step_and_two_optimizers_are_no_mistake() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    flow = lpt.attach_(model, lpt.DataFlow())
    optimizers = [torch.optim.SGD(part.parameters(), 0.1) for part in model]
    for skip in (False, True, False):
        model(torch.randn(4, 3)).sum().backward()
        flow.step()
        for optimizer in optimizers:
            if not skip:  # as a GradScaler does
                optimizer.step()
            optimizer.zero_grad()
    flow.remove()
    optimizers[0].step()


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("mxfp8", r"100\.0 % of the multiplications have both operands on the grids of products$"),
        ("tetrajet", r"grids of products\n  not so: conv \(left out\), fc \(left out\)\.$"),
        ("swalp", r"100\.0 % .* on the grids of W, products$"),
        ("fp8_seb", r"100\.0 % .* on the grids of A, E, W$"),
    ],
)
def test_full_precision_is_no_grid_where_products_are_rounded(
    recipe: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    few = ("trainer.max_steps=1", "trainer.batch_size=32", "data.train_limit=32", "indicators=none")
    assert train(tmp_path, f"recipe={recipe}", *few) == 0
    told, summarized = capfd.readouterr().err, summary(tmp_path)
    [line] = re.findall(r"^coverage: .*(?:\n  not so: .*)?", told, re.M)
    assert re.search(said, line), line
    assert ("left out" in str(summarized["coverage_missing"])) == ("left out" in line)
