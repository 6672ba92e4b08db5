"""Products: gradients against six plain roundings and three plain products, bit for bit."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lpt.ops import Function, MatMul
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

import lpt
from lpt.dataflow.kinds import Convolution, Linear
from lpt.dataflow.kinds import MatMul as MatrixProduct
from lpt.dataflow.product import Product
from lpt.dataflow.rounding import Rounding
from lpt.dataflow.slots import PRODUCTS, SLOTS
from lpt.dataflow.switching import Switches
from lpt.formats import Blocks, get
from lpt.formats.kernels import Library

FORMATS = {"x": "mxfp8_e4m3", "w": "mxfp4", "dgrad_e": "mxfp8_e5m2", "dgrad_w": "fp134/16", "wgrad_e": "nvfp4",
           "wgrad_x": "fp143"}  # fmt: skip


def rounded(name: str | None, t: Tensor, dim: int) -> Tensor:
    """One plain rounding of a tensor, whose blocks run along dim."""
    if name is None:
        return t
    fmt = get(name)
    return fmt.round(t, dim) if isinstance(fmt, Blocks) else fmt.round(t, fmt.scale_of(t))


def values(*shape: int, seed: int = 0) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.exp2(torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(seed + 1)))


def convolution(spatial: int, groups: int) -> Convolution:
    one, zero = (1,) * spatial, (0,) * spatial
    return Convolution(one, zero, one, False, zero, groups)


def gradients(run: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor, e: Tensor) -> tuple[Tensor, ...]:
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = run(x, w)
    return y.detach(), *torch.autograd.grad(y, (x, w), e)


@settings(max_examples=25, deadline=None)
@given(st.sets(st.sampled_from(SLOTS)), st.tuples(*[st.integers(1, 70)] * 3), st.integers(0, 99))
def test_a_linear_layer_by_hand(on: set[str], sizes: tuple[int, int, int], seed: int) -> None:
    tokens, features, outputs = sizes
    f = {name: FORMATS[name] if name in on else None for name in SLOTS}
    x, w, e = (
        values(2, tokens, features, seed=seed),
        values(outputs, features, seed=seed + 1),
        values(2, tokens, outputs),
    )
    layer = nn.Linear(features, outputs)
    layer.weight.data = w
    handle = lpt.attach_products_(layer, lpt.Products(**f))
    x.requires_grad_()
    y = layer(x)
    y.backward(e)
    x, rows, flat = x.detach(), e.view(-1, outputs), x.detach().view(-1, features)
    assert y.equal(F.linear(rounded(f["x"], x, -1), rounded(f["w"], w, 1), layer.bias))
    dx = rounded(f["dgrad_e"], rows, 1) @ rounded(f["dgrad_w"], w, 0)
    dw = rounded(f["wgrad_e"], rows, 0).t() @ rounded(f["wgrad_x"], flat, 0)
    assert layer.weight.grad is not None and layer.weight.grad.equal(dw)
    assert layer.bias.grad.equal(rows.sum(0))
    with torch.no_grad():
        again = layer(x)
    assert again.equal(y)
    with handle.off():
        assert layer(x).equal(F.linear(x, w, layer.bias))
    x.requires_grad_()
    (got,) = torch.autograd.grad(layer(x), x, e)
    assert got.view(-1, features).equal(dx)
    handle.remove()
    assert "forward" not in vars(layer) and layer(x).equal(F.linear(x, w, layer.bias))


@settings(max_examples=25, deadline=None)
@given(
    st.sets(st.sampled_from(SLOTS), min_size=1),
    st.tuples(*[st.integers(1, 40)] * 3),
    st.sampled_from(["", "a", "b", "both"]),
)
def test_a_matrix_product_by_hand(on: set[str], sizes: tuple[int, int, int], batched: str) -> None:
    """Operands with and without a batch; where one is broadcast, its gradient is summed."""
    n, k, m = sizes
    f = {name: FORMATS[name] if name in on else None for name in SLOTS}
    a = values(*((3,) if batched in ("a", "both") else ()), n, k)
    b = values(*((3,) if batched in ("b", "both") else ()), k, m, seed=3)
    e = values(*((3,) if batched else ()), n, m, seed=5)
    product = MatMul()
    lpt.attach_products_(product, lpt.Products(**f))
    y, da, db = gradients(product, a, b, e)
    assert y.equal(rounded(f["x"], a, -1) @ rounded(f["w"], b, -2))
    wanted = rounded(f["dgrad_e"], e, -1) @ rounded(f["dgrad_w"], b, -1).transpose(-2, -1)
    assert da.equal(wanted.sum_to_size(a.shape))
    wanted = rounded(f["wgrad_x"], a, -2).transpose(-2, -1) @ rounded(f["wgrad_e"], e, -2)
    assert db.equal(wanted.sum_to_size(b.shape))


def test_vectors_and_linear_functions() -> None:
    product, f = MatMul(), get("mxfp4")
    lpt.attach_products_(product, lpt.Products(x="mxfp4", w="mxfp4"))
    a, b, m = values(40), values(40, seed=1), values(40, 3, seed=2)
    assert product(a, b).equal((f.round(a)[None] @ f.round(b)[:, None])[0, 0])
    assert product(a, m).equal((f.round(a)[None] @ f.round(m, 0))[0])
    assert product(m.t(), b).equal((f.round(m.t()) @ f.round(b)[:, None])[:, 0])
    linear = Function(F.linear)
    lpt.attach_products_(linear, lpt.Products(x="mxfp4"))
    assert linear(a, m.t(), bias=m[0]).equal(F.linear(f.round(a), m.t(), m[0]))


CONVOLUTIONS = [
    (nn.Conv1d, {"stride": 2, "padding": 1}),
    (nn.Conv2d, {"padding": 1, "dilation": 2, "groups": 2}),
    (nn.Conv2d, {"groups": 8, "padding": "same"}),  # depthwise
    (nn.Conv2d, {"padding": 1, "padding_mode": "circular"}),
    (nn.Conv3d, {"stride": (1, 2, 1), "bias": False}),
    (nn.ConvTranspose1d, {"stride": 2, "padding": 1, "output_padding": 1}),
    (nn.ConvTranspose2d, {"groups": 2, "stride": 2}),
    (nn.ConvTranspose3d, {}),
]


def by_channels(name: str | None, t: Tensor, groups: int) -> Tensor:
    """Blocks along the channels of each group at each pixel."""
    return torch.cat([rounded(name, part, 1) for part in t.chunk(groups, 1)], 1)


@pytest.mark.parametrize(("cls", "options"), CONVOLUTIONS)
def test_a_convolution_by_hand(cls: type[nn.Module], options: dict[str, object]) -> None:
    """Channels at each pixel; in the weight gradient the batch. One scale for a tensor only in wgrad_x."""
    formats = {**FORMATS, "wgrad_e": "fp134/4"}
    torch.manual_seed(0)
    conv = cls(8, 8, 3, **options)
    plain = cls(8, 8, 3, **options)
    plain.load_state_dict(conv.state_dict())
    spatial = len(conv.kernel_size)
    x = values(6, 8, *[7, 6, 5][:spatial]).requires_grad_()
    lpt.attach_products_(conv, lpt.Products(**formats))
    y = conv(x)
    e = values(*y.shape, seed=9)
    names = ["input", "weight"]
    dx, dw = torch.autograd.grad(y, (x, conv.weight), e)
    w, groups, transposed = conv.weight.detach(), conv.groups, "Transpose" in cls.__name__

    def weights(name: str, inputs: bool) -> Tensor:
        """Blocks along the in-channels or the out-channels of each group."""
        if transposed:  # (in, out / groups)
            return torch.cat([rounded(name, part, 0 if inputs else 1) for part in w.chunk(groups, 0)], 0)
        return torch.cat([rounded(name, part, 1 if inputs else 0) for part in w.chunk(groups, 0)], 0)

    def run(x: Tensor, w: Tensor, slot: int, e: Tensor) -> tuple[Tensor, Tensor]:
        plain.weight.data = w
        x = x.detach().requires_grad_()
        y = plain(x)
        return y.detach(), torch.autograd.grad(y, (x, plain.weight)[slot], e)[0]

    wanted, _ = run(by_channels(formats["x"], x.detach(), groups), weights(formats["w"], True), 0, e)
    assert y.equal(wanted), names
    _, wanted = run(x, weights(formats["dgrad_w"], False), 0, by_channels(formats["dgrad_e"], e, groups))
    assert torch.equal(dx, wanted)
    padded = x.detach()
    if options.get("padding_mode") == "circular":  # padded before it is rounded: its largest value is the same
        padded = rounded(formats["wgrad_x"], padded, 0)
    _, wanted = run(rounded(formats["wgrad_x"], padded, 0), w, 1, rounded(formats["wgrad_e"], e, 0))
    assert torch.equal(dw, wanted)


def test_what_an_output_size_asks_for() -> None:
    conv, x = nn.ConvTranspose2d(4, 4, 3, stride=2), values(4, 5, 5)
    size = conv(x, output_size=[12, 12]).shape
    lpt.attach_products_(conv, lpt.Products(x="mxfp4"))
    assert conv(x, output_size=[12, 12]).shape == size and conv(x).shape == (4, 11, 11)


def test_q_rounds_what_the_forward_product_used() -> None:
    x, w, e = values(40, 48), values(36, 48, seed=1), values(40, 36, seed=2)
    fmt = get("mxfp4")
    qx, qw = fmt.round(x), fmt.round(w)
    q = lpt.Slot("mxfp4", source="q")
    layer = nn.Linear(48, 36, bias=False)
    layer.weight.data = w
    lpt.attach_products_(layer, lpt.Products(x="mxfp4", w="mxfp4", dgrad_w=q, wgrad_x=q))
    x.requires_grad_()
    dx, dw = torch.autograd.grad(layer(x), (x, layer.weight), e)
    assert dx.equal(e @ fmt.round(qw, 0)) and dw.equal(e.t() @ fmt.round(qx, 0))
    assert not fmt.round(qw, 0).equal(fmt.round(w, 0))
    as_it_was = lpt.Slot("fp32", source="q")
    other = nn.Linear(48, 36, bias=False)
    other.weight.data = w
    lpt.attach_products_(other, lpt.Products(x="mxfp4", w="mxfp4", dgrad_w=as_it_was, wgrad_x=as_it_was))
    dx, dw = torch.autograd.grad(other(x), (x, other.weight), e)
    assert dx.equal(e @ qw) and dw.equal(e.t() @ qx)


def test_finite_differences_where_nothing_is_rounded() -> None:
    """With slots that ask for nothing but what the forward product used, and transforms that cancel."""
    full = lpt.Slot("fp32", source="q")
    cases = [(nn.Linear(5, 3), (4, 5)), (nn.Conv2d(4, 4, 2, groups=2, stride=2), (2, 4, 5, 4)),
             (nn.ConvTranspose1d(4, 2, 3, groups=2), (2, 4, 5))]  # fmt: skip
    for module, shape in cases:
        module = module.double()
        lpt.attach_products_(module, lpt.Products(dgrad_w=full, wgrad_x=full))
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        for p in module.parameters():
            assert torch.autograd.gradcheck(module, (x,)) and p.dtype == torch.float64
    a = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    product = MatMul()
    lpt.attach_products_(product, lpt.Products(dgrad_w=full))
    assert torch.autograd.gradcheck(product, (a, b))


def kept(products: lpt.Products, x: Tensor) -> list[Tensor]:
    """What autograd keeps of a layer of 48 inputs and 32 outputs, keys aside."""
    torch.manual_seed(0)
    layer, found = nn.Linear(48, 32), []

    def pack(t: Tensor) -> Tensor:
        found.append(t)
        return t

    lpt.attach_products_(layer, products)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        layer(x)
    return [t for t in found if t.is_floating_point()]


def test_what_autograd_keeps_is_what_the_slots_need() -> None:
    x = values(40, 48)
    one = dict.fromkeys(("x", "wgrad_x"), "fp134")
    (got,) = kept(lpt.Products(**one), x)  # x needs no gradient, so w is not kept
    assert got.equal(rounded("fp134", x, -1))
    (got,) = kept(lpt.Products(x="mxfp4", wgrad_x="mxfp4"), x)
    assert got.data_ptr() == x.data_ptr()  # along another dimension, from the unrounded tensor: no memory of its own
    w, got = kept(lpt.Products(x="mxfp4", wgrad_x=lpt.Slot("mxfp4", source="q")), x.requires_grad_())
    assert got.equal(get("mxfp4").round(x)) and w.shape == (32, 48)


def test_slots_that_ask_for_the_same_share_one_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(products: lpt.Products) -> int:
        layer, calls = nn.Linear(64, 64), []
        lpt.attach_products_(layer, products)
        own = Rounding.__call__
        monkeypatch.setattr(Rounding, "__call__", lambda *a: calls.append(1) or own(*a))
        layer(values(64, 64).requires_grad_()).sum().backward()
        monkeypatch.undo()
        return len(calls)

    for name, wanted in (("fp134", 3), ("mxfp4", 6), ("fp134/16x16", 3), ("fp134/8x16", 6)):
        assert count(lpt.Products(**dict.fromkeys(SLOTS, name))) == wanted, name
    stochastic = dict.fromkeys(SLOTS, lpt.Slot("fp134", rounding="stochastic"))
    assert count(lpt.Products(**stochastic)) == 3


def test_tiles_lie_over_both_dimensions() -> None:
    """Not square ones: columns along what is summed over, rows along the other dimension."""
    layer = nn.Linear(40, 24, bias=False)
    lpt.attach_products_(layer, lpt.Products(**dict.fromkeys(SLOTS, "fp134/4x8")))
    x, e, fmt = values(20, 40).requires_grad_(), values(20, 24, seed=3), get("fp134/4x8")
    dx, dw = torch.autograd.grad(layer(x), (x, layer.weight), e)
    w, x = layer.weight.detach(), x.detach()
    assert dx.equal(fmt.round(e) @ fmt.round(w.t()).t())
    assert dw.equal(fmt.round(e.t()) @ fmt.round(x.t()).t())


def test_stochastic_rounding_is_a_function_of_seed_module_slot_and_run() -> None:
    slot = lpt.Slot("mxfp4", rounding="stochastic")
    x, e = values(8, 64), values(8, 32, seed=2)

    def run(seed: int = 0, steps: int = 1, start: int = 0) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 32), nn.Linear(64, 32))
        model[1].load_state_dict(model[0].state_dict())
        handle = lpt.attach_products_(model, lpt.Products(**dict.fromkeys(SLOTS, slot), seed=seed))
        handle.load_state_dict({"0": torch.tensor(start), "1": torch.tensor(0)})
        for _ in range(steps):
            model.zero_grad()
            model[0](x).backward(e)
        assert handle.state_dict()["0"] == steps + start
        assert not model[1](x).equal(model[0](x))
        return model[0](x), model[0].weight.grad

    same, again = run(), run()
    assert all(a.equal(b) for a, b in zip(same, again, strict=True))
    assert not same[1].equal(run(seed=1)[1]) and not same[1].equal(run(steps=2)[1])
    assert run(steps=2)[1].equal(run(start=1)[1])  # a state that is loaded goes on


def test_stochastic_rounding_is_unbiased() -> None:
    """And is done where it is asked for: the mean of many is the product of what is not rounded."""
    layer = nn.Linear(32, 8, bias=False)
    lpt.attach_products_(layer, lpt.Products(x=lpt.Slot("mxfp4_rceil", rounding="stochastic")))
    x = values(4, 32)
    ys = torch.stack([layer(x).detach() for _ in range(2000)]).double()
    error = (ys.mean(0) - F.linear(x, layer.weight.detach())).abs()
    assert (error <= 5 * ys.std(0) / 2000**0.5 + 1e-9).all() and ys.std() > 0


def test_every_combination_of_rounding_and_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that are not asked for change nothing in those that are."""
    slot = lpt.Slot("fp134", rounding="stochastic")
    x, e = values(8, 32), values(8, 16, seed=2)
    found = []
    for needs_x, needs_w in itertools.product((False, True), repeat=2):
        torch.manual_seed(0)
        layer = nn.Linear(32, 16)
        lpt.attach_products_(layer, lpt.Products(**dict.fromkeys(SLOTS, slot)))
        layer.weight.requires_grad_(needs_w)
        x = x.detach().requires_grad_(needs_x)
        layer(x).backward(e)
        found.append((x.grad, layer.weight.grad))
    assert found[1][1].equal(found[3][1]) and found[2][0].equal(found[3][0])


def test_autocast_multiplies_in_bfloat16() -> None:
    layer, x = nn.Linear(32, 16), values(8, 32).requires_grad_()
    lpt.attach_products_(layer, lpt.Products(**dict.fromkeys(SLOTS, "mxfp4")))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and layer.weight.grad.dtype == x.grad.dtype == torch.float32
    q = get("mxfp4").round
    assert y.equal(F.linear(q(x).bfloat16(), q(layer.weight).bfloat16(), layer.bias.bfloat16()))


def test_it_is_differentiated_once() -> None:
    layer, x = nn.Linear(32, 16), values(8, 32).requires_grad_()
    lpt.attach_products_(layer, lpt.Products(x="mxfp4"))
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="do not work within torch"):
        torch.func.grad(lambda x: layer(x).sum())(x)


def test_random_bits_of_each_process() -> None:
    """Errors and activations have bits of their own on each; weights and signs the same."""
    slots = {name: lpt.Slot("mxfp4", "stochastic", "hp", {"size": 16, "signs": "fresh"}) for name in SLOTS}
    first, second = (Product("fc", Linear(), slots, lpt.Products(**slots), rank) for rank in (0, 1))
    assert first.keys is not None and second.keys is not None
    same = dict(zip((*SLOTS, *PRODUCTS), first.keys == second.keys, strict=True))
    assert {name for name, equal in same.items() if equal} == {"w", "dgrad_w", *PRODUCTS}
    assert len({*first.keys.tolist(), *second.keys.tolist()}) == 9 + 4


@pytest.mark.parametrize("slots", [{"wgrad_e": lpt.Slot("fp143", "stochastic")}, dict.fromkeys(SLOTS, "nvfp4")])
def test_compiled_products_give_the_same_bits(slots: dict[str, lpt.Slot]) -> None:
    """Over several steps: random bits advance as they do eagerly."""
    x, found = values(8, 32).clamp(-9, 9), []
    for compiled in (False, True):
        torch.manual_seed(0)
        layer = nn.Linear(32, 16, bias=False)
        handle = lpt.attach_products_(layer, lpt.Products(**slots))
        run = torch.compile(layer, fullgraph=True) if compiled else layer
        for _ in range(2):
            layer.zero_grad()
            y = run(x)
            y.square().sum().backward()
        assert [*handle.state_dict().values()] in ([], [2])
        found.append((y.detach(), layer.weight.grad))
    assert all(a.equal(b) for a, b in zip(*found, strict=True))


def test_sums_in_parts() -> None:
    """Three products of a layer by hand, term by term; and of two matrices."""
    fmt, x, e = get("fp169"), values(2, 6, 20).requires_grad_(), values(2, 6, 9, seed=1)
    layer = nn.Linear(20, 9)
    lpt.attach_products_(layer, lpt.Products(x="mxfp4", accumulate={"format": "fp169", "every": 8}))
    y = layer(x)
    dx, dw = torch.autograd.grad(y, (x, layer.weight), e)

    def summed(a: Tensor, b: Tensor) -> Tensor:
        total = torch.zeros(a.shape[:-1] + b.shape[-1:])
        for i in range(0, a.shape[-1], 8):
            total = fmt.round(total + a[..., i : i + 8] @ b[..., i : i + 8, :])
        return total

    w, flat, rows = layer.weight.detach(), x.detach().view(12, 20), e.view(12, 9)
    assert y.equal(summed(get("mxfp4").round(x), w.t()) + layer.bias)
    assert not y.equal(F.linear(get("mxfp4").round(x), w, layer.bias))
    assert dx.view(12, 20).equal(summed(rows, w)) and dw.equal(summed(rows.t(), flat))
    product = MatMul()
    lpt.attach_products_(product, lpt.Products(accumulate={"format": "fp169", "every": 8}))
    assert product(x.detach(), w.t()).equal(summed(x.detach(), w.t()))
    for wrong, said in ({"format": "fp134", "every": 8}, "needs a scale"), ({"format": "bf16", "every": 0}, "every=0"):
        with pytest.raises(ValueError, match=said):
            lpt.Products(accumulate=wrong)
    with pytest.raises(ValueError, match="accumulate is for Linear and MatMul, and '0' is a Conv1d"):
        lpt.attach_products_(nn.Sequential(nn.Conv1d(2, 2, 1)), lpt.Products(accumulate={"format": "bf16", "every": 8}))


KINDS = {
    "linear": (Linear(), (3, 9, 20)), "matrices": (MatrixProduct(), (2, 9, 20)), "1d": (convolution(1, 1), (4, 12, 9)),
    "grouped": (convolution(1, 3), (4, 12, 9)), "2d": (convolution(2, 1), (4, 12, 5, 3)),
    "depthwise": (convolution(2, 12), (4, 12, 5, 3)), "one channel": (convolution(2, 1), (4, 1, 5, 1)),
    "3d": (convolution(3, 1), (2, 6, 3, 4, 5)),
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)), st.sampled_from(SLOTS), st.randoms(use_true_random=False), st.booleans(),
    st.sampled_from(["mxfp4", "nvfp4", "fp143", Blocks("fp134", (4, 8)), Blocks("int4", (3, 2))]),
)  # fmt: skip
def test_an_operand_is_rounded_alike_however_it_lies(kind: str, name: str, order, drawn: bool, spec) -> None:
    """Dimensions in any order in memory: the values of the contiguous one, and where autograd was told they lie."""
    what, shape = KINDS[kind]
    if name[-1] == "w":
        inputs = 1 if kind in ("depthwise", "one channel") else 4
        shape = (12, inputs, *shape[2:]) if isinstance(what, Convolution) else shape[-2:]
    n = len(shape)
    turned, channels_last, mixed = [*range(n - 2), n - 1, n - 2], [0, *range(2, n), 1], order.sample(range(n), n)
    dims = order.choice([turned, channels_last[-n:], mixed])
    t = values(*[shape[d] for d in dims], seed=order.randrange(9)).permute([dims.index(d) for d in range(n)])
    slot = lpt.Slot(spec, "stochastic" if drawn else "nearest")
    rounding = Rounding(slot, what, name, False, "floor", 0, Switches(kernels=Library()))
    key = torch.tensor(5) if drawn else None
    q = rounding.operand(t, key)
    assert q.equal(rounding.operand(t.contiguous(), key))
    graph = getattr(torch.ops.lpt, rounding._operator())
    assert graph(t, key).equal(q)
    with FakeTensorMode() as mode:
        assert graph(mode.from_tensor(t), None).stride() == q.stride()


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_a_compiled_network_of_images_keeps_its_layout(memory: torch.memory_format) -> None:
    """Inductor lets channels come last: roundings and gradients follow, within one graph, to the same network."""
    x, y, found = torch.rand(6, 3, 8, 8), torch.arange(6), []
    for compiled in (False, True):
        torch.manual_seed(0)
        convs = nn.Conv2d(3, 16, 3, bias=False), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 8, 3)
        model = nn.Sequential(convs[0], nn.BatchNorm2d(16), nn.ReLU(), *convs[1:], nn.Flatten(), nn.Linear(128, 6))
        model = model.to(memory_format=memory)
        handle = lpt.attach_products_(model, lpt.Products(**dict.fromkeys(SLOTS, "mxint8")))
        if compiled:
            handle.switches.kernels = Library()
            model.compile(fullgraph=True)
        F.cross_entropy(model(x), y).backward()
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        assert a is not None and (a - b).abs().max() < 0.02 * a.abs().max()  # sums in another order, some levels apart


def test_no_elements_and_other_memory_formats() -> None:
    formats = dict.fromkeys(SLOTS, "mxfp4")
    layer, conv = nn.Linear(32, 16), nn.Conv2d(8, 8, 3, groups=2)
    lpt.attach_products_(layer, lpt.Products(**formats))
    lpt.attach_products_(conv, lpt.Products(**formats))
    layer(torch.randn(0, 32)).sum().backward()
    assert layer.weight.grad.equal(torch.zeros(16, 32))
    x = values(4, 8, 6, 6)
    assert conv(x.to(memory_format=torch.channels_last)).allclose(conv(x), rtol=1e-4, atol=1e-3)
    assert conv(x[:0]).shape == (0, 8, 4, 4)
