"""Edges: what they round, when scales move, what can be switched, and that nothing else changes."""

import copy
import pickle

import pytest
import torch
from networks import Block, attentive, convolutional, images
from torch import nn

import lpt
from lpt import DataFlow
from lpt.formats import scale_of
from lpt.formats.kernels import Library


class Identity(nn.Module):
    """A leaf that gets an Edge and nothing else."""

    def forward(self, x):
        return x * 1.0


def edge(**options):
    """A model of one Edge, and its handle; the input is left alone."""
    model = nn.Sequential(Identity())
    return model, lpt.attach_(model, DataFlow(input="fp32", **options))


def loss_of(model, seed=1):
    x, y = images(seed=seed)
    return nn.functional.cross_entropy(model(x), y)


def test_an_edge_rounds_forward_with_a_and_backward_with_e():
    model, _ = edge(activation="fp134", error="int4", scaling="current", room_activation=1, room_error=0)
    x = torch.randn(4, 5, requires_grad=True)
    e = torch.randn(4, 5)
    y = model(x)
    y.backward(e)
    assert torch.equal(y, lpt.formats.get("fp134").round(x, scale_of(x, room=1)))
    assert torch.equal(x.grad, lpt.formats.get("int4").round(e, scale_of(e)))


@pytest.mark.parametrize("kind", ["activation", "error", "gradient"])
def test_each_kind_can_be_left_in_full_precision(kind):
    x, y = images()
    plain = convolutional()
    nn.functional.cross_entropy(plain(x), y).backward()
    model = convolutional()
    others = {k: "fp32" for k in ("activation", "error", "gradient") if k != kind}
    handle = lpt.attach_(model, DataFlow(input="fp32", last_error="single", **others))
    out = model(x)
    nn.functional.cross_entropy(out, y).backward()
    assert torch.equal(out, plain(x)) == (kind != "activation")
    name = "0.weight"
    before = model.get_parameter(name).grad.clone()
    assert torch.equal(before, plain.get_parameter(name).grad) == (kind == "gradient")
    handle.step()
    assert torch.equal(before, model.get_parameter(name).grad) == (kind != "gradient")


def test_full_precision_everywhere_adds_no_hook():
    model = convolutional()
    handle = lpt.attach_(model, DataFlow("fp32", "fp32", "fp32"))
    assert handle.edges == {} and handle.gradients == {}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_dual_is_the_sum_of_two_values_of_the_format():
    model = nn.Sequential(nn.Flatten())
    lpt.attach_(model, DataFlow(scaling="current", room_activation=0))
    x = torch.randn(3, 7)
    fp134 = lpt.formats.get("fp134")
    first = fp134.round(x, scale_of(x))
    second = fp134.round(x - first, scale_of(x - first))
    assert torch.equal(model(x), first + second)
    assert float((model(x) - x).abs().max()) < float((first - x).abs().max()) / 8


def test_tracked_scales_start_with_the_first_batch_and_move_by_one_a_step():
    model, handle = edge()
    quantizer = handle.edges["0"].activation
    seen = []
    for magnitude in (1.0, 100.0, 100.0, 1e-6, 0.0, float("inf"), 1.0):
        model(torch.full((3,), magnitude))
        handle.step()
        seen.append(quantizer.scale.item())
    # exponent + room 1: 1 first; then up by one; down by one; zeros and infinities move nothing
    assert seen == [1, 2, 3, 2, 2, 2, 1]


def test_the_scale_moves_once_a_step_by_the_largest_of_all_batches():
    model, handle = edge()
    model(torch.ones(3))
    handle.step()
    for magnitude in (1.0, 1000.0, 1.0):
        model(torch.full((3,), magnitude))
    handle.step()
    assert handle.edges["0"].activation.scale.item() == 2


def test_rounding_saturates_at_the_tracked_scale_until_it_has_moved():
    model, handle = edge()
    model(torch.ones(1))
    handle.step()
    assert model(torch.tensor([1000.0])).item() == 31 / 16 * 2


@pytest.mark.parametrize("situation", ["eval", "probe", "off"])
def test_nothing_moves_in_evaluation_in_a_probe_or_when_off(situation):
    model, handle = edge(rounding="stochastic")
    x = torch.ones(3, requires_grad=True)
    model(x).sum().backward()
    handle.step()
    before = copy.deepcopy(handle.state_dict())
    if situation == "eval":
        model.eval()
    context = {"eval": torch.enable_grad(), "probe": handle.probe(), "off": handle.off()}[situation]
    with context:
        out = model(x * 1000)
        out.sum().backward()
    assert (out[0].item() == 1000) == (situation == "off")
    handle.step()
    after = handle.state_dict()
    for name, state in before.items():
        assert all(a == b for a, b in zip(state.values(), after[name].values(), strict=True)), name


def test_evaluation_does_not_depend_on_the_batch():
    model = convolutional()
    handle = lpt.attach_(model)
    loss_of(model).backward()
    handle.step()
    model.eval()
    x, _ = images(8)
    other = torch.cat([x[:1] * 100, x[1:]])
    assert torch.equal(model(x)[1:], model(other)[1:])


def test_g_is_rounded_on_the_accumulated_gradient():
    model = convolutional()
    handle = lpt.attach_(model, DataFlow(gradient="int4"))
    for seed in (1, 2):
        loss_of(model, seed).backward()
    before = {n: p.grad.clone() for n, p in model.named_parameters()}
    probed = handle.quantize_gradients(before)
    handle.step()
    int4 = lpt.formats.get("int4")
    for name, p in model.named_parameters():
        if name in handle.gradients:
            assert torch.equal(p.grad, int4.round(before[name], scale_of(before[name], room=2)))
        else:
            assert torch.equal(p.grad, before[name])  # biases and batch-norm
        assert torch.equal(probed[name], p.grad)
    assert set(handle.gradients) == {n for n, p in model.named_parameters() if p.ndim > 1}


def test_state_dict_keys_deepcopy_pickle_and_remove():
    model, plain = convolutional(), convolutional()
    x, _ = images()
    handle = lpt.attach_(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    loss_of(model).backward()
    handle.step()
    model.eval()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        twin.train()
        twin(x * 1000)  # a copy's scales are its own
        assert torch.equal(model(x), copy.deepcopy(model)(x))
    handle.remove()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(x), plain.eval()(x))
    lpt.attach_(model)
    with pytest.raises(ValueError, match=r"remove\(\)"):
        lpt.attach_(model)


def test_saved_scales_continue_bit_for_bit():
    def run(steps, saved=None):
        model = convolutional()
        handle = lpt.attach_(model, DataFlow(rounding="stochastic"))
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        if saved:
            model.load_state_dict(saved[0])
            handle.load_state_dict(saved[1])
        for step in steps:
            opt.zero_grad()
            loss_of(model, step).backward()
            handle.step()
            opt.step()
        return copy.deepcopy((model.state_dict(), handle.state_dict()))

    whole, parts = run(range(4)), run(range(2, 4), run(range(2)))
    assert all(torch.equal(a, b) for a, b in zip(whole[0].values(), parts[0].values(), strict=True))
    assert str(whole[1]) == str(parts[1])
    with pytest.raises(ValueError, match="another data flow"):
        lpt.attach_(convolutional(), DataFlow(error="fp32")).load_state_dict(whole[1])


def test_rules_choose_formats_by_module_name():
    model = convolutional()
    rules = [{"pattern": "3.*", "error": "fp152"}, {"pattern": "3.conv2", "error": "fp32", "gradient": "int8"}]
    handle = lpt.attach_(model, DataFlow(rules=rules))
    assert handle.edges["3.conv1"].error.format.name == "fp152"
    assert handle.edges["3.conv1"].activation.format.name == "fp134"
    assert handle.edges["3.conv2"].error is None
    assert handle.gradients["3.conv2.weight"].format.name == "int8"
    assert handle.edges["5.conv1"].error.format.name == "fp134"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"activation": "fp135"}, "fp134"),
        ({"room_error": -1}, "room_error=-1"),
        ({"rules": "fc"}, "not a list of rules"),
        ({"rules": ["fc"]}, "not a mapping"),
        ({"scaling": "delayed"}, "tracked, current"),
        ({"rounding": "up"}, "nearest, stochastic"),
        ({"input": "triple"}, "dual, single, fp32"),
        ({"rules": [{"error": "fp152"}]}, "a rule has a pattern"),
        ({"rules": [{"pattern": "layer9*", "error": "fp152"}]}, "matches no module"),
        ({"rules": [{"pattern": "*", "error": "fp15"}]}, "unknown format"),
        ({"last": "head"}, "matches no module"),
    ],
)
def test_mistakes_are_told(options, told):
    with pytest.raises(ValueError, match=told):
        lpt.attach_(convolutional(), DataFlow(**options))


def test_a_format_in_place_of_a_data_flow_is_told():
    with pytest.raises(ValueError, match="takes a DataFlow, got 'fp134'"):
        lpt.attach_(convolutional(), "fp134")


def test_shares_of_saturation_and_underflow_and_nans_are_counted():
    model, handle = edge(scaling="current", room_activation=0, room_error=0)
    x = torch.tensor([1.0, 2.0 * 31 / 32, 1e-6, 0.0, float("nan"), float("inf")], requires_grad=True)
    with handle.measure() as counts:
        model(x).backward(torch.tensor([1.0, 1e-9, 1e-9, 1e-9, 0.0, 0.0]))
    # at scale 0 the largest level is 31/16: 2 * 31/32 = 31/16 is no saturation; infinity stays, and is counted apart
    shares = counts()["0"]
    assert shares == {
        "activation/saturation": 0.0, "activation/underflow": 1 / 6,
        "error/saturation": 0.0, "error/underflow": 3 / 6, "nan": 1, "infinite": 1,
    }  # fmt: skip
    model(x)
    assert counts()["0"] == shares  # counted within measure() only


def test_formats_with_a_scale_of_their_own_are_used_as_they_are():
    model, _ = edge(activation="bf16", error="fixed8_4")
    x = torch.tensor([1.00390625, 300.0], requires_grad=True)
    y = model(x)
    y.backward(torch.tensor([100.0, 0.03]))
    assert y.tolist() == [1.0, 300.0]
    assert x.grad.tolist() == [7.9375, 0.0]  # saturated; below half of 1/16


def test_posits_have_their_octave_of_best_resolution_where_the_data_has_its_top():
    model, _ = edge(activation="posit8_1", scaling="current", room_activation=0)
    x = torch.tensor([3.0, 0.75])
    scale = 1  # 3 is in octave 1, and posits have the most fraction bits around 1
    assert torch.equal(model(x), lpt.formats.get("posit8_1").round(x, scale))


def test_stochastic_rounding_is_for_e_and_g_and_differs_from_step_to_step():
    model, handle = edge(rounding="stochastic", scaling="current", error="int4")
    x = torch.ones(1000, requires_grad=True)
    grads = []
    for _ in range(2):
        x.grad = None
        model(x).backward(torch.linspace(0.1, 1, 1000))
        grads.append(x.grad)
    assert not torch.equal(*grads)
    assert handle.edges["0"].activation.key is None


def test_outputs_of_several_tensors():
    class Many(nn.Module):
        def forward(self, x):
            return {"a": x * 1.0, "b": [x * 2.0, (x > 0)]}, 3

    model = nn.Sequential(Many())
    lpt.attach_(model, DataFlow(input="fp32", scaling="current", activation="int3"))
    x = torch.randn(10)
    out, three = model(x)
    assert three == 3 and out["b"][1].dtype == torch.bool
    assert torch.equal(out["a"], lpt.formats.get("int3").round(x, scale_of(x, room=1)))


def test_what_hides_its_products_is_reported():
    model = nn.Sequential(nn.LSTM(4, 4))
    handle = lpt.attach_(model)
    assert "fused" in handle.left_out["0"]
    assert "fused" in str(handle.report())


def test_the_report_names_formats_reasons_and_coverage():
    model = attentive()
    handle = lpt.attach_(model, DataFlow(error="fp152", last_error="single"))
    text = str(handle.report(torch.randint(20, (2, 5))))
    assert "2.scores" in text and "fp134" in text and "fp152" in text
    assert text.endswith("100.0 % of the forward multiply-accumulates use quantized activations")
    assert model.training


def residual():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Block(8), nn.Flatten(), nn.Linear(512, 10))


@pytest.mark.parametrize("build", [residual, attentive])
def test_compiled_equals_eager_bit_for_bit_in_eval(build):
    """Forward and backward, each in one graph; the products run in the same kernels, so that all bits can agree."""
    x = images()[0] if build is residual else torch.randint(20, (4, 5))
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model = build()
        handle = lpt.attach_(model)
        model(x).sum().backward()
        handle.step()
        model.zero_grad()
        model.eval()
        run = torch.compile(model, fullgraph=True) if compiled else model
        out = run(x)
        out.sum().backward()
        results.append([out, *(p.grad for p in model.parameters())])
    names = ["output", *(n for n, _ in model.named_parameters())]
    differ = [n for n, a, b in zip(names, *results, strict=True) if not torch.equal(a, b)]
    assert all("bn" in n or n.startswith("1.") for n in differ)  # their reductions sum in another order


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("scaling", ["current", "tracked"])
@pytest.mark.parametrize(("rule", "top"), [("floor", 1.0), ("rounded", 2.0), ("ceil", 2.0), ("rceil", 2.0)])
def test_the_scale_rule_decides_where_a_largest_value_goes(rule, top, scaling, fused):
    model, handle = edge(
        activation="log4", error="log4", scaling=scaling, scale_rule=rule, room_activation=0, room_error=0
    )
    handle.mode.kernels = Library(ahead=False) if fused else None
    x = torch.tensor([1.6, 0.3], requires_grad=True)
    for _ in range(3):  # a tracked scale that started stays
        x.grad = None
        y = model(x)
        y.backward(torch.tensor([1.6, 0.3]))
        handle.step()
        assert y.tolist() == x.grad.tolist() == [top, 0.25]
    y = model(torch.tensor([3.2, 0.3]))  # saturates, and then the scale has moved by one octave, or not yet
    handle.step()
    assert model(torch.tensor([3.2, 0.3]))[0].item() == 2 * top
