"""Standard ways out: ONNX run with onnxruntime, torchao's tensors; what has none says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lpt
from lpt import formats
from lpt.errors import UserError
from lpt.exchange import export, load_exported, to_onnx, torchao_of
from lpt.exchange.carriers import CARRIERS, NoCarrier, carrier_of
from lpt.exchange.loading import _built
from lpt.exchange.rounding import rounders_
from lpt.runs.onnx import PLAIN

TEXT = {"vocabulary": 20, "layers": 1, "width": 32, "heads": 2, "context": 8, "tied": True}
X = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def trained(
    model: nn.Module, x: Tensor, weights: str, activation: str | None, **options: Any
) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    asked = {"error": "fp32", "gradient": "fp32", **({} if activation is None else {"input": "single"}), **options}
    flow = lpt.attach_(model, lpt.DataFlow("fp32" if activation is None else activation, **asked))
    quantized = lpt.attach_weights_(model, optimizer, weights)
    for _ in range(2):
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        flow.step()
        optimizer.step()
    return model.eval(), quantized, flow


def run(file: Path, x: Tensor) -> Tensor:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    for key, value in PLAIN.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(file), options)
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def small() -> nn.Module:
    """What traces in a moment."""
    torch.manual_seed(0)
    parts = (nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))
    return nn.Sequential(*parts)


def recorded(model: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor], list[Any], Tensor]:
    """What is rounded in a pass, what becomes of it, what rounds it, in the pass's order; and the output."""
    before: list[Tensor] = []
    after: list[Tensor] = []
    by: list[Any] = []

    def watched(place: str, quantizer: Any) -> Any:
        def rounded(values: Tensor, training: bool) -> Tensor:
            found = quantizer(values, training)
            before.append(values.clone())
            after.append(found.clone())  # what follows may write into it
            by.append(quantizer)
            return found

        return rounded

    rounders_(model, watched)
    with torch.no_grad():
        return before, after, by, model(x)


def opened(file: Path, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The same of an ONNX graph, operator by operator as it is written."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    graph = onnx.load(file)
    own = graph.graph
    reads = {name: node for node in own.node for name in node.input}
    clips = [node for node in own.node if node.op_type == "Clip" and reads[node.output[0]].op_type == "QuantizeLinear"]
    before = [node.input[0] for node in clips]
    after = [reads[reads[node.output[0]].output[0]].output[0] for node in clips]
    given = own.input[0].name
    own.output.extend(onnx.ValueInfoProto(name=n) for n in dict.fromkeys(before + after) if n != given)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # it warns of outputs without a shape
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, map(torch.from_numpy, session.run(names, {given: x.numpy()})), strict=True)) | {given: x}
    return [found[n] for n in before], [found[n] for n in after], found[names[0]]


def check(file: Path, onnx: Path, x: Tensor, model: nn.Module | None = None) -> None:
    """Every example is lpt's within float32's rounding, up to the first value that lies at a rounding edge."""
    wanted, rounded, quantizers, outputs = recorded(load_exported(file, model), x)
    before, after, found = opened(onnx, x)
    assert len(before) == len(wanted)
    edge = torch.zeros(len(x), dtype=torch.bool)  # examples that have met one
    for own, there, q, there_q, quantizer in zip(wanted, before, rounded, after, quantizers, strict=True):
        assert torch.equal(there_q, quantizer(there, False)), "the graph rounds as lpt rounds"
        near = 1e-5 * own.abs().max()
        assert ((there - own).abs()[~edge] <= near).all(), "float32 explains the difference"
        edge |= (there_q != q).flatten(1).any(1)
    near = 1e-5 * outputs.abs().max()
    assert ((found - outputs).abs()[~edge] <= near).all()
    assert not edge.all(), "for this check to show anything"
    fast = run(onnx, x)
    assert ((fast - outputs).abs()[~edge] <= near).all()
    top = outputs.topk(2, -1).values
    clear = (top[..., 0] - top[..., 1] > 2 * near) & ~edge.view(-1, *[1] * (outputs.ndim - 2))
    assert torch.equal(fast.argmax(-1)[clear], outputs.argmax(-1)[clear]) and clear.any()


def grouped() -> nn.Module:
    """Biases that are no multiples of a product's unit, and scales by groups of channels."""
    torch.manual_seed(0)
    parts = (
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 2, groups=1),
    )
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(100, 4))


def test_biases_are_added_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model, *handles = trained(grouped(), X[:4], "int4", "int8")
    file, to = tmp_path / "m.safetensors", tmp_path / "m.onnx"
    export(model, *handles, to=file)
    to_onnx(file, [X[:2]], to=to, model=grouped())
    check(file, to, X, grouped())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_networks_that_are_not_of_float32_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = small().to(dtype).eval()
    file = tmp_path / "m.safetensors"
    export(model, lpt.QuantizedWeights(model, "int4"), to=file)
    assert torch.equal(load_exported(file, small().to(dtype))(X.to(dtype)), model(X.to(dtype)))
    with pytest.raises(UserError, match=f"is {dtype}, and quantized networks leave as ONNX in float32"):
        to_onnx(file, [X[:2].to(dtype)], to=tmp_path / "m.onnx", model=small().to(dtype))


def held(file: Path) -> dict[str, Tensor]:
    """The weights of an ONNX graph, multiplied out from the file's own numbers."""
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(file).graph
    own = {t.name: torch.tensor(onnx.numpy_helper.to_array(t).astype("float64")) for t in graph.initializer}
    found = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in own:
            codes, scale = own[node.input[0]], own[node.input[1]]
            shape = [-1 if dim == node.attribute[0].i else 1 for dim in range(codes.ndim)] if scale.ndim else []
            found[node.input[0].removesuffix(".codes")] = (codes * scale.view(shape)).float()
    return found


@pytest.mark.parametrize(
    ("weights", "activation", "kind"),
    [("int4", "int8", "INT4"), ("log4_hyst", "ocp_e4m3", "INT8"), ("ocp_e4m3", "int8_full", "FLOAT8E4M3FN"),
     ("ocp_e5m2", "ocp_e5m2", "FLOAT8E5M2"), ("int4", None, "INT4")],
)  # fmt: skip
def test_onnx_computes_what_lpt_computes(weights: str, activation: str | None, kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model, *handles = trained(small(), X[:4], weights, activation)
    file, to = tmp_path / "m.safetensors", tmp_path / "m.onnx"
    export(model, *handles, to=file)
    assert set(to_onnx(file, [X[:2]], to=to, model=small()).values()) == {kind}
    check(file, to, X, small())
    assert str(Path(lpt.__file__).parent).encode() not in to.read_bytes(), "it says nothing of the machine"
    weights_there = held(to)
    assert len(weights_there) == 2
    assert all(torch.equal(w, model.state_dict()[name]) for name, w in weights_there.items())
    if activation is None:
        assert torch.allclose(run(to, X), model(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", ["GPT", "timm"])
def test_models_with_ties_and_of_others(target: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("timm")
    some = torch.Generator().manual_seed(0)
    tokens, images = torch.randint(20, (16, 8), generator=some), torch.randn(16, 1, 32, 32, generator=some)
    named = {"name": "resnet10t", "classes": 4, "in_channels": 1, "example": [2, 1, 32, 32]}
    options, x = {"GPT": (TEXT, tokens), "timm": (named, images)}[target]
    torch.manual_seed(0)
    builds = {"_target_": f"lpt.models.{target}", **options}
    model, *handles = trained(_built(builds), x[:6], "int8", "int8")
    file = tmp_path / "m.safetensors"
    export(model, *handles, to=file, builds=builds)
    to_onnx(file, [x[:2]], to=tmp_path / "m.onnx")
    check(file, tmp_path / "m.onnx", x)
    there, own = held(tmp_path / "m.onnx"), model.state_dict()
    assert there and all(torch.equal(w, own[name]) for name, w in there.items())


@pytest.mark.parametrize("name", ["int2", "int5", "int8", "int4_full", "int8_full", "ocp_e4m3", "ocp_e5m2"])
def test_a_type_rounds_as_the_format_does(name: str) -> None:
    format = formats.get(name)
    carrier, shift = carrier_of(format, "x", alike=True)
    values = format.values()
    between = torch.cat([values, (values[1:] + values[:-1]) / 2, values * 1.01, torch.tensor([1e9, -1e9])])
    x = between.float().clamp(format.low, format.high) * 2.0**-shift
    if carrier.name.startswith("INT"):
        own = x.round()
    else:
        own = x.to({"FLOAT8E4M3FN": torch.float8_e4m3fn, "FLOAT8E5M2": torch.float8_e5m2}[carrier.name]).float()
    assert torch.equal(own * 2.0**shift, format.round(between.float(), scale=0))


def test_formats_that_no_type_holds() -> None:
    assert next(c.name for c in CARRIERS if c.shift(formats.get("log4"), alike=False) is not None) == "INT8"
    for name in ("log4", "fp134", "posit8_1", "bf16", "mxfp4"):
        with pytest.raises(NoCarrier, match="which no type of ONNX holds"):
            carrier_of(formats.get(name), "x", alike=True)


@pytest.mark.parametrize(
    ("weights", "activation", "options", "told"),
    [
        ("posit8_1", "int8", {}, "is stored in posit8_1"), ("int4", "fp134", {}, "rounded in fp134"),
        ("int4", "int8", {"input": "dual"}, "format.input=single"), ("mxfp4", "int8", {}, "to torchao"),
        ("int4", "int8", {"scaling": "current"}, "scaling=tracked"),
    ],
)  # fmt: skip
def test_what_cannot_leave_says_what_would(
    weights: str, activation: str, options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model, quantized, flow = trained(small(), X[:4], weights, activation, **options)
    file = tmp_path / "m.safetensors"
    export(model, quantized, flow, to=file)
    with pytest.raises(UserError, match=told):
        to_onnx(file, [X[:2]], to=tmp_path / "m.onnx", model=small())
    assert not (tmp_path / "m.onnx").exists() and torch.equal(load_exported(file, small())(X), model(X))


@pytest.mark.filterwarnings("ignore")  # torchao's, about itself
@pytest.mark.parametrize("scheme", ["mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4", "nvfp4"])
def test_torchao_dequantizes_to_the_same_values(scheme: str, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 6))
    quantized = lpt.QuantizedWeights(model, scheme)
    export(model, quantized, to=tmp_path / "m.safetensors")
    found = torchao_of(tmp_path / "m.safetensors")["0.weight"]
    rtol = 2.0**-22 if scheme == "nvfp4" else 0.0
    assert torch.allclose(found.dequantize(torch.float32), model[0].weight.detach(), rtol=rtol, atol=0)


def test_torchao_has_no_other_formats(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 6))
    export(model, lpt.QuantizedWeights(model, "int4"), to=tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="is no tensor of torchao"):
        torchao_of(tmp_path / "m.safetensors")
