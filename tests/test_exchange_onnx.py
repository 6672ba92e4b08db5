"""Standard ways out: ONNX run with onnxruntime, torchao's tensors; what has none says so."""

from __future__ import annotations

from functools import partial
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
from lpt.models import GPT, ResNet

RESNET = {"depth": 8, "classes": 4, "in_channels": 1}
TEXT = {"vocabulary": 20, "layers": 1, "width": 32, "heads": 2, "context": 8, "tied": True}
X = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def trained(model: nn.Module, x: Tensor, weights: str, activation: str, **options: Any) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = lpt.attach_(model, lpt.DataFlow(activation, **{"input": "single", **options}))
    quantized = lpt.attach_weights_(model, optimizer, weights)
    for _ in range(2):
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        flow.step()
        optimizer.step()
    return model.eval(), quantized, flow


def run(file: Path, x: Tensor) -> Tensor:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(file))
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.parametrize(
    ("weights", "activation", "kind"),
    [("int4", "int8", "INT4"), ("log4_hyst", "ocp_e4m3", "INT8"), ("ocp_e4m3", "int8_full", "FLOAT8E4M3FN"),
     ("ocp_e5m2", "ocp_e5m2", "FLOAT8E5M2")],
)  # fmt: skip
def test_onnx_computes_what_lpt_computes(weights: str, activation: str, kind: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model, quantized, flow = trained(ResNet(**RESNET), X[:4], weights, activation)
    file, to = tmp_path / "m.safetensors", tmp_path / "m.onnx"
    export(model, quantized, flow, to=file, builds={"_target_": "lpt.models.ResNet", **RESNET})
    assert set(to_onnx(file, [X[:2]], to=to).values()) == {kind}
    assert torch.allclose(run(to, X), model(X), rtol=1e-5, atol=1e-6)
    graph = onnx.load(to)
    assert str(Path(lpt.__file__).parent).encode() not in to.read_bytes(), "it says nothing of the machine"
    node = next(n for n in graph.graph.node if n.output[0] == "conv.weight")
    held = {own.name: onnx.numpy_helper.to_array(own).astype("float64") for own in graph.graph.initializer}
    scale = torch.tensor(held[node.input[1]])
    scale = scale.view(-1, 1, 1, 1) if scale.ndim else scale
    assert torch.equal((torch.tensor(held[node.input[0]]) * scale).float(), model.conv.weight.detach())


def test_the_gpt_with_tied_weights_and_a_model_of_timm(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    tokens = torch.randint(20, (6, 8), generator=torch.Generator().manual_seed(0))
    named = {"name": "resnet10t", "classes": 4, "in_channels": 1, "example": [2, 1, 32, 32]}
    images = torch.randn(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    timms = partial(_built, {"_target_": "lpt.models.timm", **named})
    for target, make, options, x in (("GPT", partial(GPT, **TEXT), TEXT, tokens), ("timm", timms, named, images)):
        torch.manual_seed(0)
        model, quantized, flow = trained(make(), x, "int8", "int8")
        file = tmp_path / f"{target}.safetensors"
        export(model, quantized, flow, to=file, builds={"_target_": f"lpt.models.{target}", **options})
        to_onnx(file, [x[:2]], to=tmp_path / "m.onnx")
        found, wanted = run(tmp_path / "m.onnx", x), model(x)
        assert (found - wanted).abs().max() <= 0.02 * wanted.abs().max(), "a few values may round to a neighbour"


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
    model, quantized, flow = trained(ResNet(**RESNET), X[:4], weights, activation, **options)
    file = tmp_path / "m.safetensors"
    export(model, quantized, flow, to=file, builds={"_target_": "lpt.models.ResNet", **RESNET})
    with pytest.raises(UserError, match=told):
        to_onnx(file, [X[:2]], to=tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists() and torch.equal(load_exported(file)(X), model(X))


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
