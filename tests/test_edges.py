"""Models of one's own: what gets an Edge, a scale for each place, infinities, second derivatives, changes."""

import copy

import pytest
import torch
import torch.nn.utils.prune
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lpt
from lpt import DataFlow
from lpt.dataflow.audit import Audit
from lpt.dataflow.quantizer import Mode, Quantizer
from lpt.dataflow.scales import Scales
from lpt.execution.packing import Packing
from lpt.formats import scale_of
from lpt.formats.kernels import Library

FP134 = lpt.formats.get("fp134")
INF = float("inf")
TORCH_WARNS = pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")  # within its own forward mode


class Two(nn.Module):
    """Two towers, and an argument that no product sees."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.got = nn.Linear(4, 4), nn.Linear(4, 4), None

    def forward(self, x, other, boxes=None, mask=None):
        self.got = (boxes, mask)
        return self.left(x.flatten(1)) + self.right(torch.cat([other[:1], other[1:]]))


class Causal(nn.Module):
    """Attention with an additive mask, by a module or not."""

    def __init__(self, add):
        super().__init__()
        self.query, self.product, self.softmax = nn.Linear(4, 4), lpt.ops.MatMul(), nn.Softmax(-1)
        self.add = lpt.ops.Add() if add else None
        self.register_buffer("mask", torch.full((5, 5), -INF).triu(1))
        self.values = lpt.ops.MatMul()

    def forward(self, x):
        scores = self.product(self.query(x), x.transpose(-2, -1))
        scores = self.add(scores, self.mask) if self.add else scores + self.mask
        return self.values(self.softmax(scores), x)


def forms(flow):
    """Module -> how A and E are rounded: "-", "one", "dual"."""
    return {
        name: tuple("-" if q is None else q.form or "one" for q in (edge.activation, edge.error))
        for name, edge in flow.edges.items()
    }


# -- one activation, one scale -----------------------------------------------------------------------------------------


def test_each_argument_has_its_own_scale_and_what_is_no_activation_is_left_alone():
    model = Two()
    flow = lpt.attach_(model)
    x, boxes = torch.rand(2, 4), torch.tensor([10.0, 20.0, 333.0, 417.0])
    for _ in range(3):
        model(x, other=1000 * x, boxes=[{"at": boxes}], mask=torch.tensor([0.3, -INF])).sum().backward()
        flow.step()
        assert torch.equal(model.got[0][0]["at"], boxes) and model.got[1].tolist() == torch.tensor([0.3, -INF]).tolist()
    entrance = flow.edges["(input)"]
    assert entrance.activation.scale == scale_of(x, room=1) and set(entrance.others) == {"[other]"}
    assert entrance.others["[other]"][0].scale == scale_of(1000 * x, room=1)
    text = str(flow.report())
    assert "holds infinities" in text and "enters no product" in text and "(input) other" in text
    with Audit(flow) as audit:
        model(x, 1000 * x)  # by position: the same place
    assert not [o for o in audit.off_grid() if o.module == "left"] and set(entrance.others) == {"[other]"}


def test_arguments_can_be_named():
    model = Two()
    flow = lpt.attach_(model, DataFlow(input_arguments=["other"], scaling="current"))
    x = torch.rand(2, 4)
    model(x, x)
    assert flow.placing.entrance.chosen == {"": "not among input_arguments", "[other]": ""}
    with pytest.raises(ValueError, match="not a list"):
        DataFlow(input_arguments="x")


def test_outputs_have_scales_of_their_own_which_are_saved_by_place():
    class Split(nn.Module):
        def forward(self, x):
            return x * 1.0, {"large": x * 1000.0}

    def run(x, saved=None):
        model = nn.Sequential(Split())
        flow = lpt.attach_(model, DataFlow(input="fp32"))
        if saved:
            flow.load_state_dict(saved)
        out = model(x)
        flow.step()
        return out, flow

    x = torch.rand(20)
    (small, large), flow = run(x)
    assert torch.equal(small, FP134.round(x, scale_of(x, room=1)))
    assert torch.equal(large["large"], FP134.round(1000 * x, scale_of(1000 * x, room=1)))
    state = copy.deepcopy(flow.state_dict())
    assert set(state) == {"0/activation:0", "0/error:0", "0[1.large]/activation:0", "0[1.large]/error:0"}
    (_, again), loaded = run(8 * x, state)
    assert loaded.state_dict().keys() == state.keys()
    assert torch.equal(again["large"], FP134.round(8000 * x, scale_of(1000 * x, room=1)))  # at the saved scale


# -- infinity is not a magnitude ---------------------------------------------------------------------------------------


def test_a_mask_masks_with_and_without_a_module():
    x = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0))
    for add in (False, True):
        torch.manual_seed(0)
        model = Causal(add)
        flow = lpt.attach_(model)
        firsts = []
        for change in (0.0, 1.0):
            y = x.clone()
            y[0, -1] += change
            firsts.append(model(y)[0, 0])
            flow.step()
        assert torch.equal(*firsts)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1.0, -3.7, 65504.0, 1e-7, INF, -INF, float("nan")]), min_size=1, max_size=6),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    st.sampled_from(["single", "dual", "dual_shared"]),
    st.booleans(),
)
def test_infinities_pass_and_the_finite_is_rounded_as_without_them(values, dtype, form, tracked):
    x = torch.tensor(values, dtype=dtype)
    dual, shared = form != "single", form == "dual_shared"
    make = lambda: Quantizer(FP134, 1, tracked, Mode(), dual=dual, shared=shared)  # noqa: E731
    whole, finite = make(), make()
    rest = torch.where(x.isinf(), 0, x)
    for _ in range(2):
        q, without = whole(x, True), finite(rest, True)
        assert torch.equal(q.isinf(), x.isinf()) and torch.equal(q[x.isinf()], x[x.isinf()])
        assert torch.equal(q[~x.isinf()].nan_to_num(7), without[~x.isinf()].nan_to_num(7))
        for quantizer in (whole, finite):
            quantizer.started = tracked
    assert torch.equal(whole.seen, finite.seen)


def test_an_overflow_reaches_the_gradient_scaler():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    flow = lpt.attach_(model)
    optimizer, scaler = torch.optim.SGD(model.parameters(), lr=1e-3), torch.amp.GradScaler("cpu")
    for _ in range(12):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = (model(torch.ones(4, 4)) - 30).square().mean()
        scaler.scale(loss).backward()
        flow.step()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() < 65536 and loss.item() < 900
    model[0].weight.grad = torch.full((8, 4), INF)
    flow.step()
    assert model[0].weight.grad.isinf().all()


@pytest.mark.parametrize("bad", [[], [-INF], [INF], [INF, -INF], [float("nan")], [float("nan"), INF]])
@pytest.mark.parametrize("fuse", [False, True])
def test_packed_keeps_infinities(bad, fuse):
    def gradient(packed):
        edge = nn.Sequential(lpt.ops.Function("clone"), Squares())
        flow = lpt.attach_(edge, DataFlow(input="fp32", scaling="current"))
        flow.mode.kernels = Library(ahead=False) if fuse else None
        if packed:
            Packing(flow)
        x = torch.cat([torch.linspace(-3, 3, 40), torch.tensor(bad)]).requires_grad_()
        edge(x).nan_to_num(1.0, 1.0, 1.0).sum().backward()
        return x.grad

    assert torch.equal(gradient(False).nan_to_num(5), gradient(True).nan_to_num(5))


class Squares(nn.Module):
    """Keeps its input for the backward pass."""

    def forward(self, x):
        return x * x


def test_saturation_is_counted_at_both_ends():
    full = Quantizer(lpt.formats.get("int8_full"), 0, True, Mode(counting=True))
    full.scale.fill_(0)
    full.started = True
    full(torch.tensor([-2.0, -2.1, 1.99, 1.0, INF]), False)
    assert full.counts.tolist() == [5, 2, 0, 0, 1]  # -2 is the lowest level, 1.984375 the highest


@pytest.mark.parametrize("rule", ["floor", "rounded"])
def test_a_tracked_scale_of_float64_follows_float64(rule):
    q = Quantizer(FP134, 1, True, Mode(), rule=rule)
    for value, scale in ((1e200, 665), (1e205, 666), (1e205, 667), (1.999 * 2.0**666, 667 + (rule == "rounded"))):
        q(torch.tensor([value, 1.0], dtype=torch.float64), True)
        Scales([q]).move()
        assert q.scale == scale
    state = copy.deepcopy(q.state_dict())
    again = Quantizer(FP134, 1, True, Mode(), rule=rule)
    again.load_state_dict(state)
    assert again.seen.dtype == torch.float64


# -- derivatives -------------------------------------------------------------------------------------------------------


def smooth():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 8, bias=False), nn.Tanh(), nn.Linear(8, 1, bias=False))


@TORCH_WARNS
def test_second_derivatives_are_straight_through():
    x = torch.randn(4, 2, requires_grad=True)

    def found(model):
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        slope.square().sum().backward()
        functions = (lambda z: model(z).sum(), x.detach())
        hessians = (torch.autograd.functional.hessian(*functions), torch.func.hessian(functions[0])(functions[1]))
        return [*(p.grad for p in model.parameters()), *hessians]

    plain, model = smooth(), smooth()
    expected = found(plain)
    lpt.attach_(model, DataFlow("fp16", "fp16", "fp16"))
    for a, b in zip(expected, found(model), strict=True):
        assert a.norm() > 0 and torch.allclose(a, b, rtol=1e-2, atol=1e-3)


@TORCH_WARNS
def test_torch_func_and_forward_mode():
    model, x = smooth(), torch.randn(4, 2)
    flow = lpt.attach_(model)
    loss = lambda p, z: torch.func.functional_call(model, p, (z,)).sum()  # noqa: E731
    parameters = {n: p.detach() for n, p in model.named_parameters()}
    model(x).sum().backward()
    grads = torch.func.grad(loss)(parameters, x)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for name, p in model.named_parameters():
        assert torch.equal(grads[name], p.grad) and each[name].shape == (4, *p.shape)
    assert torch.func.jvp(lambda z: model(z).sum(), (x,), (x,))[1] != 0
    with pytest.raises(RuntimeError, match="whole tensors"):
        torch.autograd.functional.jacobian(model, x, vectorize=True)
    exported = torch.export.export(model.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("n")},)).module()
    assert torch.equal(exported(x[:3]), model(x[:3]))
    flow.remove()


# -- roles -------------------------------------------------------------------------------------------------------------


TAILS = {
    "nothing": (), "softmax": (nn.LogSoftmax(1),), "sigmoid": (nn.Dropout(0.5), nn.Sigmoid()),
    "pool": (nn.Unflatten(1, (2, 2)), nn.AdaptiveAvgPool1d(1), nn.Flatten()),
}  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_roles_of_random_networks(data):
    """Chains and heads: every head's last product is last, what follows it is the output, all else is ordinary."""
    torch.manual_seed(0)
    tails = data.draw(st.lists(st.sampled_from(sorted(TAILS)), min_size=1, max_size=3))
    depth = data.draw(st.integers(1, 3))
    mode = data.draw(st.sampled_from([torch.no_grad, torch.inference_mode, torch.enable_grad]))
    first_made = data.draw(st.booleans())  # heads registered before or after the body

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            body = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU())))
            heads = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), *copy.deepcopy(TAILS[t])) for t in tails)
            for name, module in (("heads", heads), ("body", body))[:: 1 if first_made else -1]:
                self.add_module(name, module)

        def forward(self, x):
            x = self.body(x)
            return {"all": [head(x) for head in self.heads]}

    model, plain = Net(), Net()
    plain.load_state_dict(model.state_dict())
    before = copy.deepcopy(model.state_dict())
    flow = lpt.attach_(model, DataFlow(input="fp32", activation="fp16", error="int8"))
    random = torch.get_rng_state()
    with mode():
        model.eval()(torch.randn(3, 4))
    torch.set_rng_state(random)
    last = {f"heads.{i}.0" for i in range(len(tails))}
    found = forms(flow)
    assert {n for n, form in found.items() if form == ("-", "dual")} == last
    assert {n for n, form in found.items() if form == ("one", "one")} == {
        n for n, m in model.named_modules() if n.startswith("body.") and not any(m.children())
    }
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


def test_values_that_are_used_again_are_no_output():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)

        def forward(self, x):
            h = self.norm(self.one(x))
            return h, self.two(h)

    model = Both()
    flow = lpt.attach_(model, DataFlow(input="fp32"))
    assert "guess" in str(flow.report())
    model(torch.randn(2, 4))
    assert forms(flow) == {"one": ("one", "one"), "two": ("-", "dual"), "norm": ("one", "one")}


def test_the_first_pass_changes_nothing():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)
            self.calls = 0
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.seen.add_(1)
            x.mul_(1.0)
            return self.layer(self.drop(self.norm(x)))

    torch.manual_seed(0)
    model, x = Counting(), torch.randn(8, 4)
    twin = copy.deepcopy(model)
    lpt.attach_(model, DataFlow("fp32", "fp32", "fp134"))  # a hook in front alone
    torch.manual_seed(1)
    a = model(x.clone())
    torch.manual_seed(1)
    lpt.attach_(twin, DataFlow("fp32", "fp32", "fp134", last="layer"))
    assert model.calls == 1 and model.seen == 1 and model.norm.num_batches_tracked == 1
    assert torch.equal(a, twin(x.clone()))


class SameConv(nn.Conv2d):
    def __init__(self, *args):
        super().__init__(*args)
        self.pad = nn.ZeroPad2d(1)

    def forward(self, x):
        return super().forward(self.pad(x))


class Leaky(nn.ReLU):
    def forward(self, x):
        return super().forward(x) * 0.3


def test_what_a_module_does_decides_and_not_its_place_in_the_tree():
    model = nn.Sequential(SameConv(1, 2, 3), Leaky(), SameConv(2, 2, 3), nn.Flatten(), nn.Linear(32, 2))
    nn.utils.parametrizations.weight_norm(model[2])
    flow = lpt.attach_(model)
    x = torch.randn(3, 1, 4, 4)
    text = str(flow.report(x))
    assert list(flow.edges) == ["0", "1", "2", "4", "(input)"] and flow.left_out["0.pad"]
    assert "makes a weight" in flow.left_out["2.parametrizations.weight.0"] and "G of what its weight" in text
    with Audit(flow) as audit:
        model(x).sum().backward()
    assert {(o.module, o.position) for o in audit.off_grid()} <= {("2", "weight")}  # made by the parametrization
    with pytest.raises(ValueError, match="run the model once"):
        lpt.attach_(nn.Sequential(nn.LazyLinear(3)))


def test_edges_that_do_not_run_are_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 1))
    model.forward = lambda x: model[0](x)
    model.add_module("spare", nn.Linear(2, 2))
    flow = lpt.attach_(model)
    assert "not seen yet" in str(flow.report())
    model(torch.randn(2, 4))
    row = next(line for line in str(flow.report()).splitlines() if line.startswith("spare"))
    assert "never ran" in row and "1.out_proj" in flow.left_out


# -- life of a model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda net: setattr(net, "2", nn.Linear(4, 4)), "'2' was Linear and is now another Linear"),
        (lambda net: setattr(net, "2", nn.Sequential(net[2])), "'2' was Linear and is now Sequential"),
        (lambda net: setattr(net[2], "weight", net[0].weight), "'2.weight' is another object"),
        (lambda net: torch.nn.utils.prune.l1_unstructured(net[2], "weight", 0.5), "'2.weight' is gone"),
        (lambda net: nn.utils.parametrizations.weight_norm(net[0]), "'0.parametrizations' is new"),
        (lambda net: net.append(nn.ReLU()), "'3' is new"),
        (lambda net: net.pop(1), "changed after attach_"),
    ],
)
def test_a_model_that_changed_after_attach_is_told(change, told):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    flow = lpt.attach_(net)
    net(torch.ones(2, 4)).sum().backward()
    flow.step()
    change(net)
    with pytest.raises(ValueError, match=told):
        flow.step()
    assert "changed after" in str(flow.report())


def test_sparse_gradients_are_rounded_on_their_values():
    gradients = []
    for sparse in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Linear(4, 2))
        flow = lpt.attach_(net, DataFlow(gradient="int4"))
        net(torch.tensor([1, 2, 1])).sum().backward()
        flow.step()
        assert net[0].weight.grad.is_sparse == sparse
        gradients.append(net[0].weight.grad.to_dense())
    assert torch.equal(*gradients)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["inference", "no_grad", "train"]), st.booleans()), min_size=1, max_size=5),
    st.sampled_from(["cpu", "meta"]),
    st.sampled_from(["fp134", "posit8_1"]),
)
def test_modes_come_in_any_order(sequence, device, format):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).to(device)
    flow = lpt.attach_(net, DataFlow(format, format, format, rounding="stochastic"))
    x = torch.ones(3, 2, device=device)
    for mode, training in [*sequence, ("train", True)]:
        net.train(training)
        with {"inference": torch.inference_mode, "no_grad": torch.no_grad, "train": torch.enable_grad}[mode]():
            out = net(x)
        if mode == "train":
            out.sum().backward()
            flow.step()
    assert not any(q.scale.is_inference() or q.seen.is_inference() for q in flow._parts().values())


def test_two_values_at_one_scale():
    x = torch.randn(50)
    q = Quantizer(FP134, 0, False, Mode(), dual=True, shared=True)
    first = FP134.round(x, scale_of(x))
    assert torch.equal(q(x, True), first + FP134.round(x - first, scale_of(x)))
    model = nn.Sequential(nn.Linear(50, 3))
    flow = lpt.attach_(model, DataFlow(input="dual_shared", last_error="dual_shared"))
    assert "fp134 dual_shared" in str(flow.report(x[None])) and "100.0 % of the backward" in str(flow.report(x[None]))
    assert set(flow.state_dict()) == {"0/error:0", "(input)/activation:0", "0.weight/gradient:0"}
