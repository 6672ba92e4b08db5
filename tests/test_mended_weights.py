"""What was written into a quantized weight is what it then holds; what others hold and step is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lpt
from lpt.weights.written import _among

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(64, 64, bias=False),
    "convolution": lambda: nn.Conv2d(16, 16, 4, bias=False),
    "transposed": lambda: nn.ConvTranspose2d(16, 16, 4, groups=2, bias=False),
}


def attached(layer: str, scheme: str) -> tuple[Any, torch.optim.Optimizer, lpt.QuantizedWeights]:
    torch.manual_seed(0)
    net = LAYERS[layer]()
    opt = torch.optim.SGD(net.parameters(), lr=0.0)
    return net, opt, lpt.attach_weights_(net, opt, scheme)


def eighths(p: Tensor) -> Tensor:
    return torch.where(torch.rand(p.shape) < 0.5, 0.125, -0.125)


WHOLE: dict[str, Callable[[Tensor], Tensor]] = {
    "zeros": torch.zeros_like,
    "one eighth": lambda p: torch.full_like(p, 0.125),
    "eighths": eighths,
    "eye": lambda p: (
        torch.eye(64).reshape(p.shape) if p.ndim == 2 else torch.zeros_like(p).index_fill(-1, torch.tensor(1), 1.0)
    ),
}


@pytest.mark.parametrize("what", WHOLE)
@pytest.mark.parametrize("scheme", ["int4", "log4", "int8_hyst", "mxfp4", "nvfp4", "bm8_a"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("grad", [True, False])
def test_what_was_written_as_a_whole_is_there_after_a_step(layer: str, scheme: str, what: str, grad: bool) -> None:
    net, opt, weights = attached(layer, scheme)
    wanted = WHOLE[what](net.weight.detach())
    with torch.no_grad():
        net.weight.copy_(wanted)
    net.weight.grad = torch.ones_like(net.weight) if grad else None
    opt.step()
    assert torch.equal(net.weight, wanted) and torch.equal(weights.masters["weight"], wanted)


@pytest.mark.parametrize("scheme", ["int4", "log4", "mxfp4"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_what_a_mask_prunes_stays_zero_and_the_rest_keep_their_masters(layer: str, scheme: str, share: float) -> None:
    net, opt, weights = attached(layer, scheme)
    q, master = net.weight.detach().clone(), weights.masters["weight"].clone()
    pruned = torch.rand(q.shape) < share
    net.weight.data.mul_(~pruned)
    net.weight.grad = torch.ones_like(q)
    opt.step()
    assert not net.weight[pruned].any() and not weights.masters["weight"][pruned & (q != 0)].any()
    assert torch.equal(weights.masters["weight"][~pruned & (q != 0)], master[~pruned & (q != 0)])
    if share < 0.01 and layer == "linear":  # the scale stays
        assert torch.equal(weights.masters["weight"][q == 0], master[q == 0])


def test_a_channel_that_is_zeroed_stays_zero_and_the_others_keep_their_masters() -> None:
    net, opt, weights = attached("convolution", "int4")
    master = weights.masters["weight"].clone()
    nn.init.zeros_(net.weight[3])
    master[3] = 0
    opt.step()
    assert torch.equal(weights.masters["weight"], master) and not net.weight[3].any()


@pytest.mark.parametrize("bound", [0.11, 0.109375])  # off the grid, and on it
def test_a_clamp_costs_no_masters_within_its_bounds(bound: float) -> None:
    net, _, weights = attached("linear", "int8")
    q, master = net.weight.detach().clone(), weights.masters["weight"].clone()
    with torch.no_grad():
        net.weight.clamp_(-bound, bound)
    weights.follow()
    kept = q.abs() < bound
    assert 0 < (q.abs() == 0.109375).sum() < (~kept).sum() < q.numel() / 4
    assert torch.equal(weights.masters["weight"][kept], master[kept])
    assert (weights.masters["weight"][q.abs() > bound].abs() == bound).all()


# -- who steps --------------------------------------------------------------------------------------------------------


def test_an_optimizer_of_a_new_head_alone_is_told() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    other, opt = nn.Linear(4, 4), torch.optim.SGD(net.parameters(), lr=0.1)
    weights = lpt.attach_weights_(net, opt, "int4", skip=["1.weight"])
    net[1] = nn.Linear(4, 2)  # still skipped
    net.append(nn.Linear(2, 4))
    net(torch.ones(2, 4)).sum().backward()
    torch.optim.SGD([*other.parameters(), torch.nn.Parameter(torch.ones(2))], lr=0.1).step()  # of another model
    head = torch.optim.SGD(net[2].parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"'2.weight' is another parameter.*refresh\(\)"):
        head.step()
    weights.refresh()
    head.step()
    assert weights.names == ["0.weight", "2.weight"]
    assert torch.equal(lpt.formats.get("int4").round(net[2].weight, weights.scales["2.weight"]), net[2].weight)


class Keeps(torch.optim.Optimizer):
    """Moves what the parameters held when it was made: `p.data` then, or slices of one flat tensor."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})
        self.kept = [p.data for p in self.param_groups[0]["params"]]

    def step(self, closure: Any = None) -> None:
        for p, kept in zip(self.param_groups[0]["params"], self.kept, strict=True):
            kept.sub_(p.grad, alpha=0.1)


def test_an_optimizer_that_moves_something_else_than_the_parameter_is_told() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    opt = Keeps(net.parameters())
    weights = lpt.attach_weights_(net, opt, "int4")
    before = [p.detach().clone() for p in (*net.parameters(), *weights.masters.values())]
    net(torch.ones(2, 4)).sum().backward()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"Keeps moves a tensor that '0.weight' held when the optimizer was made"):
            opt.step()
        now = (*net.parameters(), *weights.masters.values())
        assert all(torch.equal(a, b) for a, b in zip(now, before, strict=True))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95, 1.0])
def test_values_that_others_of_their_row_were_given(share: float) -> None:
    torch.manual_seed(1)
    values = torch.randint(-3, 4, (5, 20)) / 4 * torch.randint(0, 2, (5, 20)).mul(2).sub(1)  # with some -0
    rows, chosen = torch.arange(5)[:, None].expand(5, 20), torch.rand(5, 20) < share
    wanted = (values[:, :, None] == values[:, None]) & chosen[:, None]
    assert torch.equal(_among(values, rows, chosen), wanted.any(2) & ~chosen)
