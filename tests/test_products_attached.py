"""Products on whole models: transforms, rules, what is left out or refused, report, copies, Edges beside them."""

import copy

import pytest
import torch
from torch import Tensor, nn

import lpt
from lpt.dataflow.slots import SLOTS
from lpt.dataflow.transforms import left_over, random_signs, transformed, undone
from lpt.formats import get

ALL = dict.fromkeys(SLOTS, "mxfp4")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 32)
        self.conv = nn.Conv1d(32, 32, 3, padding=1, groups=2)
        self.fc = nn.Linear(32, 64)
        self.again = self.fc  # shared
        self.scores = lpt.ops.MatMul()
        self.head = nn.Linear(64, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.conv(self.embed(tokens).transpose(1, 2)).transpose(1, 2)
        x = self.fc(x) + self.again(x)
        return self.head(self.scores(self.scores(x, x.transpose(1, 2)).softmax(-1), x))


TOKENS = torch.arange(60).view(4, 15) % 10


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_a_transform_is_undone_exactly(size: int) -> None:
    """Of whole numbers, whose sums are exact: alone, and in a product."""
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randint(-9, 10, (6, 2 * size), generator=generator).float() for _ in range(2))
    signs = random_signs(size, torch.tensor(5))
    assert {*signs.tolist()} == {-1.0, 1.0}
    for s in (None, signs):
        hx, hw = transformed(x, -1, size, s), transformed(w, -1, size, s)
        assert undone(hx, -1, size, s).equal(x) and not hx.equal(x)
        assert (hx @ hw.t() / left_over(size)).equal(x @ w.t())
        assert transformed(x.t(), 0, size, s).equal(hx.t())
    matrix = transformed(torch.eye(size), -1, size, None)
    assert (matrix @ matrix.t()).equal(left_over(size) * torch.eye(size))
    assert (matrix[1].sign() == torch.tensor([1.0, -1.0] * (size // 2))).all()  # Sylvester's order


@pytest.mark.parametrize("signs", ["none", "fixed", "fresh"])
def test_both_operands_are_transformed_and_rounded(signs: str) -> None:
    """By hand, in the three products of a layer; q is turned back first."""
    turn = {"size": 32, "signs": signs}
    q = lpt.Slot("mxfp4", source="q", transform=turn)
    slots = {"x": lpt.Slot("mxfp4", transform=turn), "w": "mxfp4", "dgrad_w": q, "wgrad_e": lpt.Slot("mxfp4"),
             "wgrad_x": q, "dgrad_e": "mxfp8_e5m2"}  # fmt: skip
    layer = nn.Linear(64, 32, bias=False)
    product = lpt.attach_products_(layer, lpt.Products(**slots, seed=3)).rounding[""].product
    generator = torch.Generator().manual_seed(0)
    x, e = torch.randn(96, 64, generator=generator).requires_grad_(), torch.randn(96, 32, generator=generator)
    y = layer(x)
    dx, dw = torch.autograd.grad(y, (x, layer.weight), e)
    keys = None if product.keys is None else product.keys + 1
    s = {name: product._signs(name, keys, x.device) for name in SLOTS}
    f, w, x = get("mxfp4").round, layer.weight.detach(), x.detach()
    qx, qw = f(transformed(x, 1, 32, s["x"])), f(transformed(w, 1, 32, s["w"]))
    assert torch.allclose(y, qx @ qw.t() / 2, rtol=1e-5, atol=1e-5)
    ux, uw = undone(qx, 1, 32, s["x"]), undone(qw, 1, 32, s["w"])
    ed = get("mxfp8_e5m2").round(transformed(e, 1, 32, s["dgrad_e"]))
    assert dx.allclose(ed @ f(transformed(uw, 0, 32, s["dgrad_w"]), 0) / 2, rtol=1e-4, atol=1e-4)
    eg, xg = (f(transformed(t, 0, 32, s["wgrad_e"]), 0) for t in (e, ux))
    assert dw.allclose(eg.t() @ xg / 2, rtol=1e-4, atol=1e-4)
    if signs == "fresh":
        assert not s["x"].equal(s["dgrad_e"]) and s["dgrad_e"].equal(s["dgrad_w"])
        assert not layer(x).equal(y)  # other signs at the next pass


def test_transforms_cancel_where_nothing_is_lost() -> None:
    """Whole numbers on a fine grid: the convolution's output and gradients are those of a plain one, bit for bit."""
    wide = {"format": "mxint8", "transform": 16}
    for conv in (nn.Conv2d(32, 32, 3, groups=2), nn.ConvTranspose2d(32, 32, 2, groups=2)):
        generator = torch.Generator().manual_seed(0)
        plain = copy.deepcopy(conv)
        for p in plain.parameters():
            p.data = torch.randint(-1, 2, p.shape, generator=generator).float()
        conv.load_state_dict(plain.state_dict())
        x = torch.randint(-1, 2, (16, 32, 4, 4), generator=generator).float().requires_grad_()
        lpt.attach_products_(conv, lpt.Products(x=wide, dgrad_e=wide, wgrad_e=wide, scale_rule="ceil"))
        y = conv(x)
        e = torch.randint(-1, 2, y.shape, generator=generator).float()
        got = torch.autograd.grad(y, (x, conv.weight), e)
        wanted = torch.autograd.grad(plain(x), (x, plain.weight), e)
        assert y.equal(plain(x)) and all(a.equal(b) for a, b in zip(got, wanted, strict=True))


def test_report_rules_and_what_is_left_out() -> None:
    model = Net()
    rules = [{"pattern": "scores", "wgrad_x": {"format": "mxfp8_e5m2", "rounding": "stochastic", "transform": 16}},
             {"pattern": "head", **dict.fromkeys(SLOTS)}]  # fmt: skip
    names = [*model.state_dict()]
    handle = lpt.attach_products_(model, lpt.Products(**ALL, rules=rules, first=False))
    over, *lines = handle.report().splitlines()
    rows = {line.split()[0]: line for line in lines[:5]}
    assert " ".join(over.split()) == "forward: y = x w^T dgrad: dx = e w wgrad: dw = e^T x"
    assert [line.partition(":")[0] for line in lines[5:]] == ["stochastic", "H16 and the like"]
    assert [*rows] == ["module", "conv", "fc", "scores", "head"] and rows["module"].split()[2:8] == [*SLOTS]
    assert rows["fc"].split() == ["fc", "Linear", *["mxfp4"] * 6]
    assert rows["scores"].endswith("mxfp8_e5m2 stochastic H16 fixed")
    assert rows["conv"].endswith("the first product, by choice") and rows["head"].endswith("fp32 by choice")
    assert handle.left_out.keys() == {"conv", "head"} and [*handle.state_dict()] == ["scores"]
    assert [*model.state_dict()] == names
    model.last_products = ["fc"]
    handle.remove()
    handle = lpt.attach_products_(model, lpt.Products(**ALL, last=False, skip=["conv"]))
    assert handle.left_out == {"conv": "skip", "fc": "the last product, by choice"}


def test_copies_removal_and_own_forwards() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    torch.manual_seed(0)
    model = Net()
    before = model(TOKENS)
    handle = lpt.attach_products_(model, lpt.Products(**ALL))
    rounded = model(TOKENS)
    twin = copy.deepcopy(model)
    assert twin(TOKENS).equal(rounded) and not rounded.equal(before)
    twin.__dict__["_lpt_products"].remove()
    assert twin(TOKENS).equal(before) and model(TOKENS).equal(rounded)
    with handle.off():
        assert model(TOKENS).equal(before)
    handle.remove()
    assert model(TOKENS).equal(before)
    assert lpt.attach_products_(Own(4, 4), lpt.Products(x="mxfp4")).left_out == {"": "has a forward of its own"}
    weight_norm = nn.utils.parametrizations.weight_norm(nn.Linear(32, 4))
    lpt.attach_products_(weight_norm, lpt.Products(**ALL))
    weight_norm(torch.randn(3, 32)).sum().backward()
    assert all(p.grad is not None for p in weight_norm.parameters())


def test_edges_beside_products() -> None:
    """An Edge's values are what the slots round; what the data flow finds out by a first pass stays."""
    alone, both = Net(), Net()
    both.load_state_dict(alone.state_dict())
    flow = lpt.attach_(alone)
    alone(TOKENS)
    lpt.attach_products_(both, lpt.Products(**ALL))
    other = lpt.attach_(both)
    both(TOKENS).sum().backward()
    assert str(other.report()) == str(flow.report())
    assert other.placing.last == flow.placing.last == {"head"}


def refused(match: str, **products: object) -> None:
    with pytest.raises(ValueError, match=match):
        lpt.attach_products_(Net(), lpt.Products(**products))  # type: ignore[arg-type]


def test_what_is_refused() -> None:
    refused("unknown|nearest", x="mxpf4")
    refused(r"block=.0. is neither", x="fp134/0")
    refused("rounding='even' is not one of", x={"format": "mxfp4", "rounding": "even"})
    refused("x has a format and any of rounding, source, transform, gradient, got fmt", x={"fmt": "mxfp4"})
    refused("dgrad_e is an error, which no forward product uses", dgrad_e={"format": "mxfp4", "source": "q"})
    refused("x is what the forward product uses", x={"format": "mxfp4", "source": "q"})
    refused("has no effect on fp32", x={"format": "fp32", "rounding": "stochastic"})
    refused("size 24: give one of 16, 32, 64, 128", x={"format": "mxfp4", "transform": 24})
    refused(
        "x and w ask for H16 fixed and H32 fixed", x=lpt.Slot("mxfp4", transform=16), w=lpt.Slot("fp134", transform=32)
    )
    refused("has no effect, since neither is rounded", x={"format": "fp32", "transform": 16})
    refused("size 32 does not divide the 16 features of a group", x={"format": "mxfp4", "transform": 32})
    refused("'grad' is no slot", rules=[{"pattern": "*", "grad": "mxfp4"}])
    refused("pattern 'layer9' matches no product of the model; there are conv, fc", rules=[{"pattern": "layer9"}])
    refused("skip 'layer9' matches no module", skip=["layer9"])
    refused("scale_rule='up' is not one of", scale_rule="up")
    with pytest.raises(ValueError, match="'lstm'"):
        lpt.attach_products_(nn.ModuleDict({"lstm": nn.LSTM(4, 4)}), lpt.Products(**ALL))
    assert lpt.attach_products_(nn.LSTM(4, 4), lpt.Products(**ALL, skip=[""])).left_out == {"": "skip"}
    with pytest.raises(ValueError, match="shape is not known yet"):
        lpt.attach_products_(nn.LazyLinear(4), lpt.Products(**ALL))
    with pytest.raises(ValueError, match="takes Products"):
        lpt.attach_products_(nn.Linear(4, 4), "mxfp4")  # type: ignore[arg-type]
    frozen = nn.Linear(4, 4)
    frozen.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="wgrad_e and wgrad_x of '' have no effect, since its weight is frozen"):
        lpt.attach_products_(frozen, lpt.Products(**ALL))
    layer = nn.Linear(32, 32)
    lpt.attach_products_(layer, lpt.Products(wgrad_e={"format": "mxfp4", "transform": 16}))
    with pytest.raises(ValueError, match="rounded already"):
        lpt.attach_products_(layer, lpt.Products(**ALL))
    with pytest.raises(ValueError, match="does not divide the 15 elements that a product sums over"):
        layer(torch.randn(15, 32)).sum().backward()
    with pytest.raises(ValueError, match="are of other products"):
        lpt.attach_products_(Net(), lpt.Products(**ALL)).load_state_dict({"fc": torch.tensor(1)})
