"""Files of trained networks: exact values back, sizes, files read by libraries alone, damaged and foreign files."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import lpt
from lpt import formats
from lpt.errors import UserError
from lpt.exchange import export, load_exported
from lpt.exchange.exporting import digest
from lpt.exchange.loading import read, state
from lpt.exchange.packed import Unpackable, pack, unpack
from lpt.models import GPT, ResNet

RESNET = {"depth": 8, "classes": 4, "in_channels": 1}
SCHEMES = ["log4_hyst", "int4", "int4_full", "int8_sr", "fp134", "posit8_1", "mxfp4_hyst", "nvfp4", "bm8_a", "int3"]
SCHEMES += ["ocp_e4m3/1x128/fp32/pow2"]


def trained(scheme: str, steps: int = 2) -> tuple[nn.Module, Any, Any]:
    """A ResNet-8 after a few steps, its weights and its data flow."""
    torch.manual_seed(0)
    model = ResNet(**RESNET)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = lpt.attach_(model, lpt.DataFlow())
    weights = lpt.attach_weights_(model, optimizer, scheme)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(torch.randn(4, 1, 8, 8)), torch.randint(4, (4,)))
        optimizer.zero_grad()
        loss.backward()
        flow.step()
        optimizer.step()
    return model.eval(), weights, flow


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_comes_back_computes_the_same_bits_without_hooks(scheme: str, tmp_path: Path) -> None:
    model, weights, flow = trained(scheme)
    file = tmp_path / "model.safetensors"
    told = export(model, weights, flow, to=file, builds={"_target_": "lpt.models.ResNet", **RESNET})
    assert not told["stored"] and told["weights"].keys() == weights.params.keys()
    x = torch.randn(8, 1, 8, 8)
    for codes in (False, True):
        back = load_exported(file, codes=codes)
        assert torch.equal(back(x), model(x)) and torch.equal(copy.deepcopy(back)(x), model(x))
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in back.modules())
    plain = ResNet(**RESNET)
    plain.load_state_dict(state(*read(file)))
    assert not torch.equal(plain.eval()(x), model(x)), "the data flow must matter for this test to show anything"


def test_products_and_tied_weights_come_back(tmp_path: Path) -> None:
    options = {"vocabulary": 20, "layers": 1, "width": 32, "heads": 2, "context": 8, "tied": True}
    torch.manual_seed(0)
    model = GPT(**options).eval()
    turned = {"pattern": "*mlp*", "x": "mxfp8_e4m3", "w": {"format": "mxfp4", "transform": 16}}
    products = lpt.Products(x="nvfp4", w="mxfp6_e2m3", rules=[turned])
    lpt.attach_products_(model, products)
    weights = lpt.QuantizedWeights(model, "int8")
    file = tmp_path / "gpt.safetensors"
    told = export(model, weights, None, products, to=file, builds={"_target_": "lpt.models.GPT", **options})
    assert told["aliases"] == {"output.weight": "tokens.weight"}
    tokens = torch.randint(20, (2, 8))
    for codes in (False, True):
        assert torch.equal(load_exported(file, codes=codes)(tokens), model(tokens))


def test_a_reader_who_knows_nothing_of_lpt_decodes_with_the_table(tmp_path: Path) -> None:
    model, weights, flow = trained("log4_hyst")
    file = tmp_path / "model.safetensors"
    export(model, weights, flow, to=file)
    with safe_open(str(file), "np") as opened:
        says = json.loads(opened.metadata()["lpt"])["weights"]["conv.weight"]
        codes, exponents = (opened.get_tensor(f"conv.weight.{end}") for end in ("codes", "scales.exponent"))
    nibbles = [nibble for byte in codes.tolist() for nibble in (byte & 15, byte >> 4)]
    channel = len(nibbles) // len(exponents.flatten())
    values = [says["table"][n] * 2.0 ** int(exponents.flatten()[i // channel]) for i, n in enumerate(nibbles)]
    assert torch.equal(torch.tensor(values).view(says["of"]), model.conv.weight.detach())


@pytest.mark.parametrize(
    ("scheme", "most"), [("log4", 4.03), ("int4", 4.03), ("mxfp4", 4.26), ("nvfp4", 4.51), ("int8", 8.03)]
)
def test_bits_a_value(scheme: str, most: float, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(64, 256, 3, bias=False), nn.Conv2d(256, 128, 3, bias=False))
    weights = lpt.QuantizedWeights(model, scheme)
    export(model, weights, to=tmp_path / "m.safetensors")
    _, tensors = read(tmp_path / "m.safetensors")
    values = sum(p.numel() for p in model.parameters())
    assert sum(t.numel() * t.element_size() for t in tensors.values()) * 8 <= most * values


@pytest.mark.parametrize("name", ["ocp_e2m1", "ocp_e4m3", "ocp_e5m2"])
def test_codes_of_ocp_floats_are_ocps(name: str) -> None:
    grid = formats.get(name)
    values = grid.values().float()
    packed = pack(values, grid, torch.zeros((), dtype=torch.int32))
    if name == "ocp_e2m1":
        assert packed.says["table"] == [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6]
        return
    dtype = {"ocp_e4m3": torch.float8_e4m3fn, "ocp_e5m2": torch.float8_e5m2}[name]
    assert torch.equal(packed.tensors["codes"].view(dtype).float(), values)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(
        ["int2", "int4_full", "int8_full", "log2", "fp134", "posit8_2", "mxfp4", "nvfp4", "mxint8", "bm8_e"]
    ),
    shape=st.lists(st.integers(0, 37), min_size=1, max_size=3), seed=st.integers(0, 99), power=st.integers(-30, 30),
)  # fmt: skip
def test_any_tensor_on_a_grid_comes_back(name: str, shape: list[int], seed: int, power: int) -> None:
    grid = formats.get(name)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2.0**power
    scale = grid.scale_of(x)
    values = grid.round(x, scale=scale)
    packed = pack(values, grid, scale)
    assert torch.equal(unpack(packed.tensors, packed.says), values)
    if values.numel():
        with pytest.raises(Unpackable, match="does not lie on the grid"):
            pack(values.flatten()[0].add(1e-3).expand(shape) + values * 1.001 + 2.0**power, grid, scale)


def test_a_weight_off_its_grid_or_without_codes_is_stored_whole(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    weights = lpt.QuantizedWeights(model, "fp169")
    told = export(model, weights, to=tmp_path / "m.safetensors")
    assert "more than 256 values" in told["stored"]["0.weight"]
    assert torch.equal(
        load_exported(tmp_path / "m.safetensors", nn.Sequential(nn.Linear(4, 3)))[0].weight, model[0].weight
    )


def test_files_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    model = nn.Sequential(nn.Linear(4, 3))
    export(model, lpt.QuantizedWeights(model, "int4"), to=file)
    with pytest.raises(UserError, match="does not say how to build its model"):
        load_exported(file)
    with pytest.raises(UserError, match="does not hold what it says"):
        load_exported(file, nn.Sequential(nn.Linear(4, 4)))
    whole = file.read_bytes()
    for cut in (0, 7, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(UserError, match="not a safetensors file that can be read"):
            load_exported(file, model)
    with pytest.raises(UserError, match="not a safetensors file that can be read"):
        load_exported(tmp_path / "none", model)
    for place in range(8, len(whole), 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"damaged|can be read|another program"):
            load_exported(file, model)
    save_file({"0.weight": torch.zeros(3, 4)}, file)
    with pytest.raises(UserError, match="of another program"):
        load_exported(file, model)


@pytest.mark.parametrize(
    "builds",
    [
        {"_target_": "torch.load", "f": "x"}, {"_target_": "builtins.open", "file": "x"},
        {"_target_": "lpt.models.resnet.ResNet"}, {"_target_": "lpt.models.external.timm", "name": "x"},
        {"_target_": "lpt.models.timm", "name": "resnet18", "classes": 4, "pretrained": True},
        {"_target_": "lpt.models.timm", "name": "resnet18", "classes": 4, "checkpoint_path": "x"},
        {"_target_": "lpt.models.timm", "name": "hf-hub:me/mine", "classes": 4},
        {"_target_": "lpt.models.torchvision", "name": "resnet18", "classes": 4, "norm_layer": "x"},
    ],
)  # fmt: skip
def test_nothing_but_models_of_lpt_is_called(builds: dict[str, Any], tmp_path: Path) -> None:
    export(nn.Linear(2, 2), to=tmp_path / "m.safetensors", builds=builds)
    with pytest.raises(UserError, match="give"):
        load_exported(tmp_path / "m.safetensors")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_the_metadata_says_wrongly_is_told_in_one_line(data: st.DataObject) -> None:
    """Any value of the description replaced by another one: an error of one kind, or the same model."""
    told, tensors = DESCRIBED
    told = copy.deepcopy(told)
    node: Any = told
    while isinstance(node, (dict, list)) and node:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            node[key] = data.draw(st.sampled_from([None, -1, 2**40, "x", [], {}, [1], 0.5, True]))
            break
        node = node[key]
    file = FOLDER / "odd.safetensors"
    text = json.dumps(told)
    save_file(tensors, file, metadata={"lpt": text, "sha256": digest(text, tensors)})
    try:
        load_exported(file, nn.Sequential(nn.Linear(4, 3)))(torch.zeros(1, 4))
    except UserError as error:
        assert "\n" not in str(error)


def _described(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    model = nn.Sequential(nn.Linear(4, 3))
    flow = lpt.attach_(model, lpt.DataFlow())
    model(torch.randn(2, 4)).sum().backward()
    flow.step()
    export(model, lpt.QuantizedWeights(model, "int4"), flow, to=folder / "m.safetensors")
    return read(folder / "m.safetensors")


@pytest.fixture(autouse=True, scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    global FOLDER, DESCRIBED
    FOLDER = tmp_path_factory.mktemp("exchange")
    DESCRIBED = _described(FOLDER)


FOLDER: Path
DESCRIBED: tuple[dict[str, Any], dict[str, Tensor]]
