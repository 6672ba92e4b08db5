"""What products keep for the backward pass, count, and draw again: codes, shares, checkpoints; a step by hand."""

from pathlib import Path

import pytest
import torch
from networks import images
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lpt
from lpt.dataflow.attach_products import Multiplied
from lpt.dataflow.slots import SLOTS
from lpt.formats import get
from lpt.formats.kernels import Library
from lpt.models import GPT, ResNet

SR, Q = lpt.Slot("mxfp4", rounding="stochastic"), lpt.Slot("mxfp4", source="q")
TOKENS = torch.arange(20).view(4, 5) % 10


def kept(module: nn.Module, x: Tensor, packed: bool) -> list[Tensor]:
    """The tensors that a forward pass leaves for the backward pass, keys and parameters aside."""
    found: list[Tensor] = []
    module.__dict__["_lpt_products"].switches.packed = packed
    own = {p.data_ptr() for p in module.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: found.append(t) or t, lambda t: t):
        module(x)
    return [t for t in found if t.data_ptr() not in own and t.dtype != torch.int64]


@pytest.mark.parametrize(
    ("slot", "bits"),
    [("mxfp4", 4.25), (SR, 4.25), (Q, 4.25), ("nvfp4", 4.5), ("mxfp8_e4m3", 8.25), ("fp134", 8),
     ("int4/16x16", 4.03125), ("ocp_e4m3/32/fp32", 9)],
)  # fmt: skip
def test_an_operand_takes_the_bits_of_its_format(slot: object, bits: float) -> None:
    """Of one convolution's input: codes and scales, and nothing else but one factor of the tensor."""
    conv = nn.Conv2d(64, 64, 1)
    lpt.attach_products_(conv, lpt.Products(x="mxfp4", wgrad_x=slot))
    x = torch.randn(32, 64, 16, 16)
    held = sum(t.nbytes for t in kept(conv, x, True))
    assert 0 <= held - bits * x.numel() / 8 <= 4
    assert sum(t.nbytes for t in kept(conv, x, False)) == 4 * x.numel()


SCHEMES = {
    "hp": dict.fromkeys(SLOTS, "mxfp4"),
    "stochastic": {**dict.fromkeys(SLOTS, SR), "dgrad_w": lpt.Slot("nvfp4", "stochastic", "q")},
    "q": {**dict.fromkeys(SLOTS, "nvfp4"), "dgrad_w": Q, "wgrad_x": lpt.Slot("fp32", source="q")},
    "shared": dict.fromkeys(SLOTS, "int4/4x4"),
    "one": {**dict.fromkeys(SLOTS, "fp134"), "w": "posit8_1"},
    "turned": {**dict.fromkeys(SLOTS, "mxfp8_e4m3"), "w": lpt.Slot("mxfp4", transform=16), "dgrad_w": Q},
}  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["resnet", "gpt"])
def test_codes_give_the_same_bits(name: str, scheme: str) -> None:
    model: nn.Module
    if name == "gpt":
        model, x = GPT(10, layers=1, width=32, heads=2, context=5), TOKENS
    else:
        model, x = ResNet(depth=8, classes=10, in_channels=3, width=16), images(4)[0]
    skip = (["*attention.attention*"] if name == "gpt" else ["conv"]) if scheme == "turned" else []
    handle = lpt.attach_products_(model, lpt.Products(**SCHEMES[scheme], skip=skip))  # type: ignore[arg-type]
    found = []
    for packed in (False, True):
        handle.switches.packed = packed
        handle.load_state_dict({name: torch.tensor(0) for name in handle.state_dict()})
        torch.manual_seed(0)
        out = model(x)
        found.append(torch.autograd.grad(out.square().sum(), [*model.parameters()], allow_unused=True))
    for a, b in zip(*found, strict=True):
        assert a is b is None or a.equal(b)


def test_infinities_and_nan_come_back() -> None:
    layer, x = nn.Linear(32, 4, bias=False), torch.randn(8, 32)
    x[0, 0], x[1, 1], x[2] = torch.inf, torch.nan, 0
    handle = lpt.attach_products_(layer, lpt.Products(wgrad_x="mxfp4"))
    found = []
    for handle.switches.packed in (False, True):
        (dw,) = torch.autograd.grad(layer(x), layer.weight, torch.ones(8, 4))
        found.append(dw)
    assert found[0].nan_to_num(99).equal(found[1].nan_to_num(99)) and found[0].isnan().any()


# -- what is lost ----------------------------------------------------------------------------------------------------


def test_shares_of_each_slot() -> None:
    """By hand: of mxfp4 by the floor rule, 7.5 is beyond 6, and 2**-5 becomes zero; infinities are neither."""
    x = torch.full((2, 32), 1.0)
    x[0, :4] = torch.tensor([7.5, -7.5, 2.0**-5, 0.0])
    x[1, 0] = torch.inf
    layer = nn.Linear(32, 32, bias=False)
    handle = lpt.attach_products_(
        layer, lpt.Products(x="mxfp4", wgrad_x="fp134", dgrad_e="int4/4x4", wgrad_e="int4/4x4")
    )
    plain = handle.report()
    with handle.measure() as counts:
        layer(x.requires_grad_()).sum().backward()
        found = counts()[""]
    assert found["x"] == {"saturation": 2 / 64, "underflow": 1 / 64}
    assert found["wgrad_x"]["saturation"] == 0 and found["wgrad_x"]["underflow"] == 0
    assert [*found] == ["x", "dgrad_e", "wgrad_x"]  # wgrad_e reads the tensor of dgrad_e
    assert "3.1 / 1.6" in handle.report() and "3.1 / 1.6" not in plain
    layer(x).sum().backward()
    assert counts()[""] == found  # nothing is counted outside


def test_products_that_no_module_makes_are_told() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.scores = nn.Linear(8, 8), lpt.ops.MatMul()

        def forward(self, x: Tensor) -> Tensor:
            x = self.scores(self.fc(x), x.mT)
            return x @ x + nn.functional.scaled_dot_product_attention(x, x, x)

    model = Own()
    handle = lpt.attach_products_(model, lpt.Products(**dict.fromkeys(SLOTS, SR), skip=["fc"]))  # type: ignore[arg-type]
    *_, first, second, cure = handle.report(torch.randn(2, 4, 8)).splitlines()
    assert "1 x bmm in the model itself" in first and "1 x scaled_dot_product" in second and "lpt.ops.MatMul" in cure
    assert model.training and handle.state_dict()["scores"] == 0


# -- a forward pass that is computed again -----------------------------------------------------------------------------


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor, times: int = 1, reentrant: bool | None = None) -> Tensor:
        for _ in range(times):
            if reentrant is None:
                x = self.second(self.first(x).relu())
            else:
                x = checkpoint(lambda x: self.second(self.first(x).relu()), x, use_reentrant=reentrant)  # type: ignore
        return x


def gradients(slot: object, **how: object) -> list[Tensor]:
    torch.manual_seed(0)
    model = Twice()
    x = torch.randn(64, 32).requires_grad_()
    handle = lpt.attach_products_(model, lpt.Products(**dict.fromkeys(SLOTS, slot)))
    model(x, **how).square().sum().backward()
    assert all(int(calls) == how.get("times", 1) for calls in handle.state_dict().values())
    return [x.grad, *(p.grad for p in model.parameters())]


def test_a_checkpoint_draws_the_same_bits_again() -> None:
    slot = {"format": "mxfp4", "rounding": "stochastic", "transform": {"size": 16, "signs": "fresh"}}
    for asked in (slot, SR):
        for a, b in zip(gradients(asked), gradients(asked, reentrant=False), strict=True):
            assert a.equal(b)


def test_a_checkpoint_that_cannot_is_refused() -> None:
    with pytest.raises(RuntimeError, match="'second' was computed again"):
        gradients(SR, times=2, reentrant=False)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        gradients(SR, reentrant=True)
    for reentrant in (False, True):  # to nearest there is nothing to draw
        for a, b in zip(gradients("mxfp4", times=2), gradients("mxfp4", times=2, reentrant=reentrant), strict=True):
            assert a.equal(b)


# -- a step --------------------------------------------------------------------------------------------------------


def test_a_step_of_two_layers_by_hand() -> None:
    """y = relu(x w1^T) w2^T, a mean square loss, one step of SGD: every number from plain roundings and products."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 36, bias=False), nn.ReLU(), nn.Linear(36, 8, bias=False))
    w1, w2 = (p.detach().clone() for p in model.parameters())
    f = {"x": "mxfp8_e4m3_rceil", "w": "mxfp4", "dgrad_e": "mxfp8_e5m2", "dgrad_w": "nvfp4", "wgrad_e": "fp134/16",
         "wgrad_x": "mxfp6_e2m3"}  # fmt: skip
    lpt.attach_products_(model, lpt.Products(**f))
    x, target = torch.randn(48, 40), torch.randn(48, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    loss = (model(x) - target).square().mean()
    loss.backward()
    optimizer.step()

    def q(slot: str, t: Tensor, dim: int) -> Tensor:
        return get(f[slot]).round(t, dim)  # type: ignore[arg-type]

    h = (q("x", x, 1) @ q("w", w1, 1).t()).relu()
    y = q("x", h, 1) @ q("w", w2, 1).t()
    assert loss.equal((y - target).square().mean())
    e = 2 / y.numel() * (y - target)
    g2 = q("wgrad_e", e, 0).t() @ q("wgrad_x", h, 0)
    e = (q("dgrad_e", e, 1) @ q("dgrad_w", w2, 0)) * (h > 0)
    g1 = q("wgrad_e", e, 0).t() @ q("wgrad_x", x, 0)
    assert model[0].weight.equal(w1 - 0.5 * g1) and model[2].weight.equal(w2 - 0.5 * g2)


def test_a_compiled_gpt_with_edges_and_products() -> None:
    """Traced whole, without a break in the graph, forward and back: the bits of eager, over steps that move scales."""
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = GPT(10, layers=1, width=32, heads=2, context=5)
        flow = lpt.attach_(model, lpt.DataFlow())
        handle: Multiplied = lpt.attach_products_(model, lpt.Products(x="mxfp4", wgrad_e=SR, skip=["*query", "*.up"]))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(3):
            if compiled and step == 1:  # as a run does it, when the scales have started
                model.compile(backend="aot_eager", fullgraph=True)
            optimizer.zero_grad()
            model(TOKENS).logsumexp(-1).sum().backward()
            flow.step()
            optimizer.step()
        assert {*map(int, handle.state_dict().values())} == {3}
        found.append([p.detach() for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        assert a.equal(b)


def test_a_graph_calls_the_kernels(tmp_path: Path) -> None:
    """As operators that it does not look into: the bits of eager, random ones among them, over steps."""
    found, library = [], Library(tmp_path, wait=True)
    for compiled in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 8))
        handle = lpt.attach_products_(model, lpt.Products(x="mxfp4", wgrad_e=SR))
        if compiled:
            handle.switches.kernels = library
            model.compile(backend="aot_eager", fullgraph=True)
        for _ in range(2):
            model.zero_grad()
            y = model(torch.randn(6, 40))
            y.square().sum().backward()
            found.append([y.detach(), *(p.grad for p in model.parameters())])
    assert library.loaded and library.why_not == ""
    for plain, own in zip(found[:2], found[2:], strict=True):
        assert all(a.equal(b) for a, b in zip(plain, own, strict=True))


def test_a_search_sees_no_products() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))
    batches = [(torch.randn(16, 20), torch.randint(5, (16,))) for _ in range(2)]
    plain = lpt.search(model, batches, nn.functional.cross_entropy, ["fp134", "int8"])
    handle = lpt.attach_products_(model, lpt.Products(**dict.fromkeys(SLOTS, "mxfp4")))
    assert str(lpt.search(model, batches, nn.functional.cross_entropy, ["fp134", "int8"])) == str(plain)
    assert handle.switches.on


def test_kernels_give_the_same_bits(tmp_path: Path) -> None:
    """One kernel, the sizes of its blocks compiled in, for operands of all other sizes and for both gradients."""
    library = Library(tmp_path, wait=True)
    found = []
    for kernels in (None, library):
        torch.manual_seed(0)
        conv = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        handle = lpt.attach_products_(conv, lpt.Products(x="mxfp8_e4m3_rceil", dgrad_e="mxfp8_e4m3_rceil"))
        handle.switches.kernels = kernels
        for batch, side in ((9, 3), (2, 5), (9, 5)):  # at first, the batch is as large as an image
            x = torch.randn(batch, 32, side, side).requires_grad_()
            y = conv(x)
            found.append((y.detach(), *torch.autograd.grad(y.square().sum(), (x, conv.weight))))
    assert len(library.loaded) == 1 and library.why_not == ""
    for plain, compiled in zip(found[:3], found[3:], strict=True):
        assert all(a.equal(b) for a, b in zip(plain, compiled, strict=True))
