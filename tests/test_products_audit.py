"""Each operand of each product lies on its slot's grid, by value; and the audit can say no."""

import pytest
import torch
from networks import attentive, convolutional, images
from torch import nn

import lpt
from lpt.dataflow.attach_products import Multiplied
from lpt.dataflow.audit_products import ProductsAudit, on_blocks
from lpt.dataflow.product import Product
from lpt.dataflow.slots import SLOTS
from lpt.formats import Blocks, get
from lpt.models import LSTMLanguageModel, ResNet, Transformer

Q = lpt.Slot("mxfp4", rounding="stochastic", source="q")
SCHEMES = {
    "one": dict.fromkeys(SLOTS, "mxfp4"),
    "six": {"x": "mxfp8_e4m3_rceil", "w": "nvfp4", "dgrad_e": lpt.Slot("mxfp8_e5m2", "stochastic"), "dgrad_w": Q,
            "wgrad_e": "ocp_e2m1/16/fp32", "wgrad_x": "fp134"},
    "tiles": dict.fromkeys(SLOTS, lpt.Slot("int4/8x4", "stochastic")),
    "flat": {"x": lpt.Slot("int9/sample/e8m0/ceil/room=-1", "stochastic"), "w": lpt.Slot("fp125/kernel6x6", "zero"),
             "dgrad_e": lpt.Slot("ocp_e5m2/tensor/squeeze"), "dgrad_w": lpt.Slot("int8_full/sample", "stochastic"),
             "wgrad_e": lpt.Slot("ocp_e5m2/tensor/fp32/inverse", scaling={"history": 2}),
             "wgrad_x": lpt.Slot("fp143/tensor/static/exponent=7", "floor")},
}  # fmt: skip
TOKENS = torch.arange(20).view(4, 5) % 10
MODELS = {
    "convolutional": (convolutional, lambda: images(4)[:1]),
    "attentive": (attentive, lambda: (TOKENS,)),
    "resnet8": (lambda: ResNet(depth=8, classes=10, in_channels=3, width=4), lambda: (torch.randn(4, 3, 8, 8),)),
    "transformer": (lambda: Transformer(10, 0, width=32, layers=1, feedforward=48), lambda: (TOKENS, TOKENS)),
    "lstm": (lambda: LSTMLanguageModel(10, width=24, layers=1), lambda: (TOKENS,)),
}


def audited(model: nn.Module, handle: Multiplied, *inputs: torch.Tensor) -> ProductsAudit:
    torch.manual_seed(0)
    with ProductsAudit(handle) as audit:
        out = model(*inputs)
        out = out if isinstance(out, torch.Tensor) else out[0]
        (out * torch.randn_like(out)).sum().backward()
    return audit


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", MODELS)
def test_every_operand_is_on_its_slots_grid(name: str, scheme: str) -> None:
    make, inputs = MODELS[name]
    model = make()
    handle = lpt.attach_products_(model, lpt.Products(**SCHEMES[scheme]))
    audit = audited(model, handle, *inputs())
    assert audit.off_grid() == []
    assert {o.module for o in audit.operands} == {*handle.rounding} and len(handle.rounding) > 2
    assert {o.slot for o in audit.operands} == {*SLOTS}


@pytest.mark.parametrize("slot", SLOTS)
def test_an_operand_that_is_not_rounded_is_told(slot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.Flatten(), nn.Linear(24, 7))
    handle = lpt.attach_products_(model, lpt.Products(**SCHEMES["one"]))
    own = Product.operand
    skipped = lambda self, kind, name, t, *rest: t if name == slot else own(self, kind, name, t, *rest)  # noqa: E731
    monkeypatch.setattr(Product, "operand", skipped)
    wrong = audited(model, handle, torch.randn(5, 3, 4, 4).requires_grad_()).off_grid()
    assert {o.slot for o in wrong} == {slot} and {o.module for o in wrong} == {"0", "2"}


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8_e5m2_ceil", "nvfp4", "fp134/3x5", "log4/8/fp32", "int8/16/ue5m3"])
def test_what_lies_on_blocks(name: str) -> None:
    fmt = get(name)
    assert isinstance(fmt, Blocks)
    x = torch.randn(7, 50, generator=torch.Generator().manual_seed(0))
    x[0] = 0
    q = fmt.round(x)
    assert on_blocks(q, fmt) and not on_blocks(x, fmt) and not on_blocks(x.t(), fmt)
    if name in ("mxfp4", "nvfp4", "int8/16/ue5m3"):  # in other formats whatever lies within a few octaves is on grid
        assert not on_blocks(q.t(), fmt)  # blocks along the other dimension
    q[3, 4] *= 1.01
    assert not on_blocks(q, fmt)
