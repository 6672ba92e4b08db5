"""Weights of variance 1 with fixed factors, weights of shifts and signs: where a Linear alone does not show them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lpt
from lpt.dataflow import UnitVariance
from lpt.models.gpt import GPT
from lpt.models.lstm import LSTMLanguageModel
from lpt.weights import ShiftAndSign


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(4, 6, 3, 2, groups=2), nn.BatchNorm2d(6), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)).mean((2, 3)))


def by_hand(model: Image, x: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and the gradients, of plain autograd with each factor put where the rules have it."""
    p = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    y = F.conv2d(x, p["conv.weight"], p["conv.bias"], 2, groups=2) * 18**-0.5
    assert model.norm.running_mean is not None
    z = F.batch_norm(y, None, None, p["norm.weight"], p["norm.bias"], True)
    out = F.linear(z.mean((2, 3)), p["last.weight"], p["last.bias"]) / 6
    out.retain_grad()
    F.cross_entropy(out, target).backward()
    assert out.grad is not None
    error = out.grad * len(x) * 10 / 3  # at the last product: n times m / sqrt(m - 1)
    pooled = z.mean((2, 3)).detach()
    found = {"last.weight": error.T @ pooled / len(x) ** 0.5, "last.bias": error.sum(0) / len(x) ** 0.5}
    back = (error @ p["last.weight"].detach()) * 10**-0.5  # fan_out, as the readout has it
    for value in p.values():
        value.grad = None
    # From there on the true gradients of the sums without factors, and these by uses^(-1/2).
    w = F.conv2d(x, p["conv.weight"], p["conv.bias"], 2, groups=2)
    y = w.detach() * 18**-0.5
    y.requires_grad_()
    z = F.batch_norm(y, None, None, p["norm.weight"], p["norm.bias"], True)
    z.mean((2, 3)).backward(back)
    uses = y.numel() / 6
    w.backward(y.grad)
    for name in ("conv.weight", "conv.bias", "norm.weight", "norm.bias"):
        grad = p[name].grad
        assert grad is not None
        found[name] = grad / uses**0.5
    return out.detach(), found


def test_factors_of_convolutions_norms_and_the_last_product() -> None:
    torch.manual_seed(0)
    model, x, target = Image(), torch.randn(8, 4, 9, 9), torch.randint(10, (8,))
    UnitVariance().attach_(model)
    copied = copy.deepcopy(model)
    for net in (model, copied):
        out = net(x)
        wanted, gradients = by_hand(net, x, target)
        torch.testing.assert_close(out, wanted)
        F.cross_entropy(out, target).backward()
        for name, p in net.named_parameters():
            torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert model(x).equal(out)  # no gradients, the same factors
    assert "weight" not in vars(model.conv)  # nothing stays in the parameter's place


def test_values_and_gradients_of_a_language_model_have_about_variance_1() -> None:
    torch.manual_seed(0)
    model = GPT(64, layers=2, width=64, heads=4, context=32, tied=False)
    UnitVariance().attach_(model)
    seen: dict[str, float] = {}
    tokens = torch.randint(64, (8, 32))
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda m, a, y, name=name: seen.update({f"{name} y": y.std().item()}))
    F.cross_entropy(model(tokens).flatten(0, 1), torch.randint(64, (256,))).backward()
    for name, p in model.named_parameters():
        if name.endswith("weight") and p.grad is not None:
            seen[f"{name} dw"] = p.grad.std().item()
    assert seen["output y"] == pytest.approx(64**-0.5, rel=0.1)  # 1 / fan_in: scores begin small
    odd = {name: value for name, value in seen.items() if not 0.1 < value < 10 and name != "output y"}
    assert not odd, odd
    assert seen["output.weight dw"] == pytest.approx(1, rel=0.1)


def test_tied_weights_and_products_as_functions() -> None:
    torch.manual_seed(0)
    model = LSTMLanguageModel(20, 16, 1, 0.0)
    UnitVariance().attach_(model)
    assert model.decoder.weight is model.embedding.weight
    weights = {n: p for n, p in model.named_parameters() if "weight" in n}
    assert all(abs(p.std().item() - 1) < 0.15 for p in weights.values()) and len(weights) == 3
    tokens = torch.randint(20, (5, 4))
    model(tokens)[0].sum().backward()
    assert all(p.grad is not None for p in weights.values())


def test_what_has_no_unit_variance() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.linear = nn.Parameter(torch.ones(2, 2)), nn.Linear(2, 2)

    with pytest.raises(ValueError, match="belongs to a Own, and what that does with it is not known"):
        UnitVariance().attach_(Own())
    with pytest.raises(ValueError, match="has no Linear and no convolution"):
        UnitVariance().attach_(nn.Tanh())
    model = nn.Sequential(nn.Linear(2, 2))
    UnitVariance().attach_(model)
    with pytest.raises(ValueError, match="already"):
        UnitVariance().attach_(model)
    assert "unit_variance" in model.state_dict()  # so that weights of another kind do not pass for these


def test_shifts_and_signs_over_a_whole_model() -> None:
    torch.manual_seed(0)
    model = GPT(30, layers=1, width=16, heads=2, context=8)
    ShiftAndSign().attach_(model)
    assert model.tokens.weight.equal(model.output.weight)  # tied as before, to one pair
    names = [name for name, _ in model.named_parameters()]
    assert sum(name.endswith("original0") for name in names) == 7 and "output.weight" not in names
    grid = lpt.formats.get("log4")
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert module.weight.equal(grid.round(module.weight, scale=0)) and module.weight.unique().numel() > 8
    before = model.output.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    F.cross_entropy(model(torch.randint(30, (4, 8))).flatten(0, 1), torch.randint(30, (32,))).backward()
    optimizer.step()
    assert not model.output.weight.equal(before) and model.tokens.weight.equal(model.output.weight)
    other = GPT(30, layers=1, width=16, heads=2, context=8)
    ShiftAndSign().attach_(other)
    other.load_state_dict(model.state_dict())
    assert other.output.weight.equal(model.output.weight)


def test_shifts_and_signs_by_hand() -> None:
    linear = nn.Linear(4, 1, bias=False)
    ShiftAndSign(bits=3).attach_(linear)
    own = linear.parametrizations.weight
    with torch.no_grad():
        own.original0.copy_(torch.tensor([[-9.0, -1.4, 3.0, -1.0]]))
        own.original1.copy_(torch.tensor([[0.6, -2.0, 0.5, -0.4]]))  # round(0.5) is 0, to even
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    linear(x).backward()
    assert linear.weight.tolist() == [[0.25, -0.5, 0, 0]]
    assert own.original0.tolist()[0] == pytest.approx([-9, -1.4, 3, -1])  # as it was written
    assert own.original0.grad.tolist()[0] == pytest.approx([0.25 * math.log(2), -0.5 * 2 * math.log(2), 0, 0])
    assert own.original1.grad.tolist() == [[1, 2, 3, 4]]
    copied = copy.deepcopy(linear)
    torch.optim.SGD(copied.parameters(), lr=1).step()  # without gradients: nothing but the clamp
    assert copied.parametrizations.weight.original0.tolist()[0] == pytest.approx([-2, -1.4, 0, -1])


@pytest.mark.parametrize("bits", [2, True, 4.0, 9])
def test_bits_that_are_refused(bits: object) -> None:
    with pytest.raises(ValueError, match="give a whole number from 3 to 8"):
        ShiftAndSign(bits=bits)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no weight of a product"):
        ShiftAndSign().attach_(nn.Embedding(2, 2))
