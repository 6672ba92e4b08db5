"""torch's attention and Transformer layers, spelled out: outputs, weights, gradients and state dicts are torch's."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lpt
from lpt.dataflow.auditing import coverage
from lpt.errors import UserError
from lpt.models import visible, visible_
from lpt.models.attention import MultiheadAttention, spelled

N, L, S = 3, 5, 4
CLOSE = {"atol": 2e-6, "rtol": 1e-4}


def drawn(module: nn.Module) -> Any:
    """`module` with parameters drawn anew, biases too, and it spelled out, which shares them and leaves it as it is."""
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0, 0.4)
    other = spelled(module)
    assert other is not None
    return module, other


def like_torch(own: nn.Module, other: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Both give the same, and the same gradients, to parameters of the same names and to what requires one."""
    given = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.requires_grad]
    found = []
    for module in (own, other):
        out = module(*args, **kwargs)
        outs = [x for x in (out if isinstance(out, tuple) else (out,)) if x is not None]
        loss = sum((x * torch.arange(x.numel()).view(x.shape).cos()).sum() for x in outs)
        named = dict(module.named_parameters())
        grads = torch.autograd.grad(loss, [*given, *named.values()], allow_unused=True)
        found.append((outs, [*map(str, range(len(given))), *named], grads))
    assert found[0][1] == found[1][1] and len(found[0][0]) == len(found[1][0])
    for a, b in zip(found[0][0], found[1][0], strict=True):
        torch.testing.assert_close(b, a, **CLOSE)
    for name, a, b in zip(found[0][1], found[0][2], found[1][2], strict=True):
        torch.testing.assert_close(torch.zeros(1) if b is None else b, torch.zeros(1) if a is None else a, msg=name,
                                   **CLOSE)  # fmt: skip


OPTIONS = st.fixed_dictionaries({
    "bias": st.booleans(), "add_bias_kv": st.booleans(), "add_zero_attn": st.booleans(),
    "batch_first": st.booleans(), "kdim": st.sampled_from([None, 6]), "vdim": st.sampled_from([None, 10]),
})  # fmt: skip
MASKS = st.sampled_from(["none", "bool", "float", "each"])


@settings(max_examples=40, deadline=None)
@given(
    options=OPTIONS, attn=MASKS, padding=st.sampled_from(["none", "bool", "float"]), training=st.booleans(),
    need=st.booleans(), average=st.booleans(), batched=st.booleans(), itself=st.booleans(),
    heads=st.sampled_from([1, 4]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_attention(
    options: dict[str, Any], attn: str, padding: str, training: bool, need: bool, average: bool, batched: bool,
    itself: bool, heads: int, seed: int,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    own, other = drawn(nn.MultiheadAttention(8, heads, **options).double().train(training))
    widths = (8, options["kdim"] or 8, options["vdim"] or 8)
    if itself and widths == (8, 8, 8):
        x = torch.randn(N, S, 8, dtype=torch.float64, requires_grad=True)
        args, length = [x, x, x], S
    else:
        sizes = zip((L, S, S), widths, strict=True)
        args, length = [torch.randn(N, n, w, dtype=torch.float64, requires_grad=True) for n, w in sizes], L
    count = N if batched else 1
    laid = [x.transpose(0, 1) if batched and not options["batch_first"] else x if batched else x[0] for x in args]
    args = [laid[0]] * 3 if args[0] is args[1] else laid
    shape = (count * heads, length, S) if attn == "each" else (length, S)
    kwargs: dict[str, Any] = {"need_weights": need, "average_attn_weights": average}
    if attn != "none":
        mask = torch.rand(shape) < 0.3
        mask[..., 0] = False  # every query looks at something
        kwargs["attn_mask"] = mask if attn == "bool" else torch.randn(shape).double().masked_fill(mask, -torch.inf)
    if padding != "none":
        hidden = torch.rand(count, S) < 0.3
        hidden[:, 0] = False
        hidden = hidden if batched else hidden[0]
        same = padding == "bool" and attn in ("none", "bool")  # torch wants one type for both
        kwargs["key_padding_mask"] = hidden if same else torch.zeros(hidden.shape).double().masked_fill(hidden, -9.0)
        if attn == "bool" and not same:
            del kwargs["key_padding_mask"]
    like_torch(own, other, *args, **kwargs)
    state = own.state_dict()
    assert list(other.state_dict()) == list(state)
    spelled(nn.MultiheadAttention(8, heads, **options).double()).load_state_dict(state)  # type: ignore[union-attr]


def test_a_query_that_may_look_at_nothing_gets_zeros_as_torch_has_it() -> None:
    own, other = drawn(nn.MultiheadAttention(8, 2, batch_first=True))
    x, mask = torch.randn(2, 4, 8, requires_grad=True), torch.zeros(4, 4, dtype=torch.bool)
    mask[2] = True
    like_torch(own, other, x, x, x, attn_mask=mask, need_weights=False)
    like_torch(own, other, x, x, x, key_padding_mask=mask[1:3], need_weights=False)
    assert other(x, x, x, attn_mask=mask)[1][:, 2].eq(0).all()


def test_dropout_is_of_the_weights_and_follows_the_mode() -> None:
    _, other = drawn(nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True))
    x = torch.randn(2, 30, 8)
    weights = other.train()(x, x, x, average_attn_weights=False)[1]
    assert 0.4 < weights.eq(0).double().mean() < 0.6
    assert not other.eval()(x, x, x)[1].eq(0).any()


def test_what_cannot_be_is_refused_by_name() -> None:
    _, other = drawn(nn.MultiheadAttention(8, 2, batch_first=True))
    x = torch.randn(2, 4, 8)
    for match, kwargs in (
        ("attn_mask has the shape \\(1, 4\\)", {"attn_mask": torch.zeros(1, 4)}),
        ("key_padding_mask has the shape \\(4, 2\\)", {"key_padding_mask": torch.zeros(4, 2)}),
        ("give attn_mask", {"is_causal": True}),
    ):
        with pytest.raises(UserError, match=match):
            other(x, x, x, **kwargs)
    with pytest.raises(UserError, match="nested"):
        nested = torch.nested.as_nested_tensor([x[0], x[1, :2]], layout=torch.jagged)
        other(nested, nested, nested)


def test_hooks_and_classes_of_ones_own_stay() -> None:
    class Own(nn.MultiheadAttention):
        pass

    hooked = nn.MultiheadAttention(8, 2)
    hooked.register_forward_hook(lambda *_: None)
    assert spelled(Own(8, 2)) is None and spelled(hooked) is None


def encoder(**options: Any) -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, **options), 2, nn.LayerNorm(8), False)


@settings(max_examples=8, deadline=None)
@given(
    options=st.fixed_dictionaries({
        "norm_first": st.booleans(), "batch_first": st.booleans(), "bias": st.booleans(),
        "activation": st.sampled_from(["relu", "gelu", torch.tanh, nn.SiLU()]),
    }),
    masked=st.booleans(), training=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_layers(options: dict[str, Any], masked: bool, training: bool, seed: int) -> None:
    torch.manual_seed(seed)
    options["dropout"] = 0.0
    x, memory = (torch.randn(4, 4, 8, dtype=torch.float64, requires_grad=True) for _ in range(2))
    causal = torch.ones(4, 4, dtype=torch.bool).triu(1) if masked else None
    padding = torch.zeros(4, 4, dtype=torch.bool)
    padding[1, 2:] = masked
    own, other = drawn(encoder(**options).double().train(training))
    like_torch(own, other, x, mask=causal, src_key_padding_mask=padding)
    own, other = drawn(nn.TransformerDecoderLayer(8, 2, 12, **options).double().train(training))
    like_torch(own, other, x, memory, tgt_mask=causal, memory_key_padding_mask=padding)
    assert list(own.state_dict()) == list(other.state_dict())


def test_torchs_transformer_in_a_model_of_ones_own() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Transformer(8, 2, 1, 1, 12, 0.0, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 100:  # which a trace could not follow
                raise ValueError
            return self.head(self.body(x, x))

    net, x = Net().eval(), torch.randn(2, 4, 8)
    before, keys = net(x), list(net.state_dict())
    assert visible_(net, x) == {} and list(net.state_dict()) == keys
    torch.testing.assert_close(net(x), before, **CLOSE)
    flow = lpt.attach_(net, lpt.DataFlow())
    weights = lpt.QuantizedWeights(net)
    found = coverage(flow, lambda: net(x), weights)
    assert found.share == 1 and found.missing == ()


def vit() -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=5)
    nn.init.normal_(net.heads.head.weight)
    return net


def test_torchvisions_vit_is_covered_whole_and_trains() -> None:
    net, x = vit(), torch.randn(4, 3, 16, 16)
    before, keys = net.eval()(x), list(net.state_dict())
    shown = visible(net, "vit", x)
    assert list(shown.state_dict()) == keys
    assert isinstance(shown.get_submodule("encoder.layers.encoder_layer_0.self_attention"), MultiheadAttention)
    torch.testing.assert_close(shown(x), before, **CLOSE)
    for twin in (copy.deepcopy(shown), pickle.loads(pickle.dumps(shown))):
        assert torch.equal(twin(x), shown(x))
    optimizer = torch.optim.SGD(shown.parameters(), 0.05)
    flow, weights = lpt.attach_(shown, lpt.DataFlow()), lpt.attach_weights_(shown, optimizer, "int8_hyst")
    assert coverage(flow, lambda: shown(x), weights).share == 1
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(shown.train()(x), torch.arange(4))
        loss.backward()
        flow.step()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_products_in_it_are_rounded() -> None:
    net, x = vit(), torch.randn(4, 3, 16, 16)
    shown = visible(net, "vit", x)
    handle = lpt.attach_products_(shown, lpt.Products(x="mxfp4", w="mxfp4"))
    path = "encoder.layers.encoder_layer_1.self_attention"
    inside = {name.removeprefix(f"{path}.") for name in handle.rounding if name.startswith(path)}
    assert inside == {"query", "key", "value", "attention.scores", "attention.values", "out_proj"}


def test_what_cannot_be_made_visible_is_left_as_it_was() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(x, x, x)[0] if x.sum() > 0 else x

    net = Net()
    with pytest.raises(UserError, match="cannot be traced"):
        visible(net)
    assert type(net.mix) is nn.MultiheadAttention
