"""Models: our ResNets, and the adapter that makes other people's arithmetic visible without changing its result."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lpt import models
from lpt.dataflow.ops import Add, Function, MatMul, Mul, ScaledDotProduct
from lpt.errors import UserError
from lpt.models import ResNet, visible
from lpt.models.operations import KEEPS_VALUES

CONF = Path(__file__).resolve().parents[1] / "conf" / "model"


# -- our own ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [8, 20, 32, 56])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_resnet_shapes_and_residual_sums(depth: int, shape: tuple[int, int, int]) -> None:
    model = ResNet(depth, classes=7, in_channels=shape[0], width=4)
    assert model(torch.randn(2, *shape)).shape == (2, 7)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(Add) == (depth - 2) // 2
    assert kinds.count(nn.Conv2d) == depth - 1 + 2  # and two projections


def test_resnet20_has_the_published_size() -> None:
    model = ResNet(20, classes=10)
    weights = sum(p.numel() for name, p in model.named_parameters() if "shortcut" not in name)
    assert weights == 269_722  # 0.27 M in He et al., table 6, whose shortcuts have no weights


def test_resnet_begins_with_he_initialisation() -> None:
    model = ResNet(20, classes=10)
    assert model.stage3[1].conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    assert not model.fc.bias.any() and model.bn.weight.eq(1).all()


@pytest.mark.parametrize("arguments", [{"depth": 9}, {"depth": 2}, {"classes": 0}, {"width": 0}, {"in_channels": 0}])
def test_resnet_refuses(arguments: dict[str, int]) -> None:
    with pytest.raises(UserError, match=r"at least 1|6n \+ 2"):
        ResNet(**{"depth": 8, "classes": 10, **arguments})


# -- the adapter -----------------------------------------------------------------------------------------------------


def torchvision_model(name: str, **options: Any) -> nn.Module:
    from torchvision.models import get_model

    return get_model(name, num_classes=10, **options)


def timm_model(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, num_classes=10, **options)


# factory, name, side of the image, options, whether the result is exact
CASES = [
    (torchvision_model, "resnet18", 32, {}, True),
    (torchvision_model, "resnet50", 32, {}, True),
    (torchvision_model, "resnet101", 32, {}, True),
    (torchvision_model, "mobilenet_v2", 32, {}, True),
    (torchvision_model, "mobilenet_v3_small", 32, {}, True),
    (timm_model, "resnet18", 32, {"drop_rate": 0.2, "drop_path_rate": 0.2}, True),
    (timm_model, "resnet50", 32, {}, True),
    (timm_model, "resnet101", 32, {}, True),
    (timm_model, "mobilenetv2_100", 32, {}, True),
    (timm_model, "efficientnet_b0", 32, {"drop_path_rate": 0.2}, True),
    (timm_model, "convnext_atto", 32, {"drop_path_rate": 0.2}, True),
    (timm_model, "vit_tiny_patch16_224", 32, {"img_size": 32, "depth": 3, "attn_drop_rate": 0.1}, False),
]
IDS = [f"{factory.__name__.partition('_')[0]}-{name}" for factory, name, *_ in CASES]


def compare(original: nn.Module, adapted: nn.Module, x: Tensor, exact: bool = True) -> None:
    """Outputs and gradients in both modes, and the running statistics afterwards."""
    tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-4, "atol": 1e-5}
    for mode in (True, False):
        results = []
        for model in (original.train(mode), adapted.train(mode)):
            model.zero_grad()
            torch.manual_seed(1)
            y = model(x)
            y.square().sum().backward()
            results.append([y, *(p.grad for p in model.parameters() if p.grad is not None)])
        torch.testing.assert_close(*results, **tolerance)
    torch.testing.assert_close(original.state_dict(), adapted.state_dict(), **tolerance)


class OpsOutsideModules(TorchFunctionMode):
    """Collects the names of torch functions that are called while no childless module is running."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inside = 0
        self.names: set[str] = set()
        for module in model.modules():
            if not any(module.children()):
                module.register_forward_pre_hook(lambda *_: self._move(1))
                module.register_forward_hook(lambda *_: self._move(-1))

    def _move(self, by: int) -> None:
        self.inside += by

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside:
            self.names.add(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("factory", "name", "size", "options", "exact"), CASES, ids=IDS)
def test_the_adapter_changes_nothing_and_hides_nothing(
    factory: Callable[..., nn.Module], name: str, size: int, options: dict[str, Any], exact: bool
) -> None:
    torch.manual_seed(0)
    original = factory(name, **options)
    adapted = visible(copy.deepcopy(original))
    assert list(adapted.state_dict()) == list(original.state_dict())
    assert [n for n, _ in adapted.named_parameters()] == [n for n, _ in original.named_parameters()]
    x = torch.randn(2, 3, size, size)
    compare(original, adapted, x, exact)
    with OpsOutsideModules(adapted) as seen:
        adapted(x)
    assert seen.names <= KEEPS_VALUES | {"__get__", "__getitem__"}, seen.names


class Toy(nn.Module):
    """`compute(self, x)` as the forward of a small model with two linear layers, for inputs (N, 8)."""

    def __init__(self, compute: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.compute = compute
        self.a = nn.Linear(8, 8)
        self.b = nn.Linear(8, 8)
        self.gamma = nn.Parameter(torch.randn(8))
        self.register_buffer("mask", torch.ones(8))

    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


def toys(compute: Callable[[Any, Tensor], Any]) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    toy = Toy(compute)
    return toy, visible(copy.deepcopy(toy))


def in_place_sum(self: Any, x: Tensor) -> Tensor:
    out = self.b(self.a(x))
    out += x
    return out


def in_place_under_two_names(self: Any, x: Tensor) -> Tensor:
    out = self.a(x)
    same = out
    same.add_(x)
    out.mul_(self.mask)
    same += 1
    return out * 2 + same


def attention(self: Any, x: Tensor, **options: Any) -> Tensor:
    q, k, v = (layer(x).reshape(-1, 2, 2, 4).transpose(1, 2) for layer in (self.a, self.b, self.a))
    return F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2).reshape(-1, 8)


OPERATIONS: dict[str, tuple[Callable[[Any, Tensor], Any], list[Any]]] = {
    "sum": (lambda self, x: x + self.a(x), [Add]),
    "torch.add": (lambda self, x: torch.add(self.a(x), x), [Add]),
    "sum with a parameter": (lambda self, x: self.a(x) + self.gamma, [Add]),
    "in-place sum": (in_place_sum, [Add]),
    "in-place under two names": (in_place_under_two_names, [Add, Mul, "add", "mul", Add]),
    "gate": (lambda self, x: x * torch.sigmoid(self.a(x)), ["sigmoid", Mul]),
    "layer scale": (lambda self, x: self.a(x).mul(self.gamma), [Mul]),
    "scaling": (lambda self, x: self.a(x) * 0.3 / 7, ["mul", "truediv"]),
    "difference": (lambda self, x: self.a(x) - x, ["sub"]),
    "sum with alpha": (lambda self, x: torch.add(self.a(x), x, alpha=2), ["add"]),
    "products": (lambda self, x: self.a(x) @ self.b(x).T @ x, [MatMul, MatMul]),
    "bmm": (lambda self, x: torch.bmm(self.a(x)[:, :, None], x[:, None]).flatten(1), [MatMul]),
    "einsum": (lambda self, x: torch.einsum("ni,ni->n", self.a(x), x)[:, None], ["einsum"]),
    "linear": (lambda self, x: F.linear(x, self.a.weight), ["linear"]),
    "mean": (lambda self, x: self.a(x).mean(1, keepdim=True), ["mean"]),
    "pooling": (lambda self, x: F.adaptive_avg_pool1d(self.a(x)[None], 2)[0], ["adaptive_avg_pool1d"]),
    "activations": (lambda self, x: F.gelu(F.silu(F.hardswish(self.a(x)))), ["hardswish", "silu", "gelu"]),
    "in-place activation": (lambda self, x: F.silu(self.a(x), inplace=True) + self.b(x).tanh_(), ["silu", "tanh", Add]),
    "softmax": (lambda self, x: self.a(x).softmax(-1) + F.softmax(x, dim=1), ["softmax", "softmax", Add]),
    "dropout": (lambda self, x: F.dropout(self.a(x), 0.5, self.training), [nn.Dropout]),
    "norm": (lambda self, x: F.layer_norm(self.a(x), (8,)), ["layer_norm"]),
    "kept": (lambda self, x: self.a(x).relu()[:, :3].flip(1).repeat(1, 2), []),
    "joined": (lambda self, x: torch.cat([self.a(x), x[:, :3]], 1), ["cat"]),
    "clipped": (lambda self, x: F.relu6(self.a(x)).clamp(max=0.7), ["relu6", "clamp"]),
    "sizes": (lambda self, x: self.a(x).reshape(x.shape[0] * 2, x.size(1) // 2).view(x.shape[0], -1), []),
    "attention": (attention, [ScaledDotProduct]),
    "causal attention": (lambda self, x: attention(self, x, is_causal=True), [ScaledDotProduct]),
}


@pytest.mark.parametrize("case", OPERATIONS)
def test_operations_become_modules(case: str) -> None:
    compute, expected = OPERATIONS[case]
    original, adapted = toys(compute)
    new = [module for name, module in adapted.named_children() if name not in ("a", "b")]
    kinds = [module.extra_repr() if isinstance(module, Function) else type(module) for module in new]
    assert kinds == expected
    compare(original, adapted, torch.randn(6, 8), exact="attention" not in case)


@pytest.mark.parametrize("kind", ["none", "bool", "float", "causal", "scale", "groups"])
def test_attention_is_what_torch_computes(kind: str) -> None:
    q, k, v = (torch.randn(2, heads, n, 8) for heads, n in ((4, 5), (4, 7), (4, 7)))
    keep = torch.rand(5, 7) > 0.3
    keep[:, 0] = True
    options: dict[str, Any] = {
        "none": {},
        "bool": {"attn_mask": keep},
        "float": {"attn_mask": torch.zeros(5, 7).masked_fill(~keep, -torch.inf)},
        "causal": {"is_causal": True},
        "scale": {"scale": 0.5},
        "groups": {"enable_gqa": True},
    }[kind]
    if kind == "groups":
        k, v = k[:, :2], v[:, :2]
    fused = F.scaled_dot_product_attention(q, k, v, **options)
    torch.testing.assert_close(ScaledDotProduct()(q, k, v, **options), fused)


def test_dropout_of_attention_follows_the_mode() -> None:
    def compute(self: Any, x: Tensor) -> Tensor:
        return attention(self, x, dropout_p=0.3 if self.training else 0.0)

    _, adapted = toys(compute)
    x = torch.randn(6, 8)
    assert adapted.attention.dropout.p == 0.3
    assert not torch.equal(adapted(x), adapted(x))
    adapted.eval()
    assert torch.equal(adapted(x), adapted(x))


@pytest.mark.parametrize(
    ("compute", "says"),
    [
        (lambda self, x: x if x.sum() > 0 else self.a(x), r"Toy cannot be traced.*in model \(Toy\).*control flow"),
        (lambda self, x: (self.a(x), self.b(x)), "not one tensor"),
        (lambda self, x: self.a(x) if self.training else self.b(x), "in training than in evaluation"),
        (lambda self, x: F.dropout(self.a(x), 0.5, True), "in training than in evaluation"),
        (lambda self, x: self.a(x) + torch.ones(8), "register it as a buffer"),
    ],
)
def test_what_cannot_be_adapted_is_refused_and_left_as_it_was(compute: Callable[..., Any], says: str) -> None:
    toy = Toy(compute).eval()
    before = str(toy)
    with pytest.raises(UserError, match=says):
        visible(toy)
    assert str(toy) == before and not toy.training and not toy.a.training


def test_a_small_module_with_its_own_way_of_training_stays_whole() -> None:
    adapted = models.timm("convnext_atto", classes=4, drop_path_rate=0.3)
    kinds = {type(m).__name__ for m in adapted.modules()}
    assert "DropPath" in kinds and "Mul" in kinds  # stochastic depth whole, layer scale as a product


def test_batch_norm_with_activation_becomes_two_modules() -> None:
    adapted = models.timm("mobilenetv2_100", classes=4)
    assert type(adapted.bn1) is nn.BatchNorm2d and type(adapted.bn1_act) is nn.ReLU6


# -- what one does with modules --------------------------------------------------------------------------------------


def small() -> nn.Module:
    torch.manual_seed(0)
    return models.timm("resnet18", classes=4, layers=(1, 1, 1, 1), channels=(4, 4, 8, 8), stem_width=4)


class Halve:
    """A hook that can be pickled."""

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output / 2


def pickled(model: nn.Module) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def saved(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
def test_copies_are_whole_and_independent_and_keep_hooks(copied: Callable[[nn.Module], nn.Module]) -> None:
    model, x = small(), torch.randn(2, 3, 32, 32)
    model.register_forward_hook(Halve())
    model.layer1[0].add.register_forward_hook(Halve())
    twin = copied(model)
    assert torch.equal(twin(x), model(x)) and str(twin) == str(model) and twin.training
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    with torch.no_grad():
        twin.fc.bias.add_(1)
    assert not torch.equal(twin(x), model(x))
    assert torch.equal(copied(twin)(x), twin(x))


def test_published_weights_load_into_the_adapted_model() -> None:
    source, x = torchvision_model("resnet18"), torch.randn(2, 3, 32, 32)
    adapted = models.torchvision("resnet18", classes=10)
    adapted.load_state_dict(source.state_dict())
    assert torch.equal(source.eval()(x), adapted.eval()(x))


@pytest.mark.parametrize("mode", [True, False])
def test_compiles_as_one_graph(mode: bool) -> None:
    model, x = small().train(mode), torch.randn(2, 3, 32, 32)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), model(x))


def test_source_reads_as_python() -> None:
    assert "self.layer1" in small().source and ".add(" in small().source  # type: ignore[operator]


# -- timm and torchvision --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [models.timm, models.torchvision])
def test_unknown_names_get_the_nearest_ones(library: Callable[..., nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"'resnet81' .* did you mean .*resnet18"):
        library("resnet81", classes=10)
    with pytest.raises(UserError, match=r"model\.name is missing"):
        library(classes=10)
    with pytest.raises(ValueError, match="for example"):
        library("zzzzzzzzzz", classes=10)
    with pytest.raises(UserError, match="cannot build resnet18 with colour=blue"):
        library("resnet18", classes=10, colour="blue")


def test_small_input_keeps_the_resolution() -> None:
    model = models.torchvision("resnet18", classes=10, small_input=True, in_channels=1)
    sizes: dict[str, torch.Size] = {}
    model.layer1[0].add.register_forward_hook(lambda *parts: sizes.update(first=parts[2].shape))
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 10) and sizes["first"] == (2, 64, 32, 32)
    assert model.conv1.weight.shape == (64, 1, 3, 3)
    with pytest.raises(UserError, match="for ResNets"):
        models.torchvision("mobilenet_v2", classes=10, small_input=True)


def test_channels_and_classes_are_set() -> None:
    x = torch.randn(2, 1, 32, 32)
    assert models.torchvision("mobilenet_v2", classes=5, in_channels=1)(x).shape == (2, 5)
    assert models.timm("mobilenetv2_100", classes=5, in_channels=1)(x).shape == (2, 5)


def test_fine_tuning_replaces_the_last_layer_only_if_it_must() -> None:
    from lpt.models.external import _replace_last

    model = torchvision_model("mobilenet_v2")
    last = model.classifier[1]
    _replace_last(model, 10)
    assert model.classifier[1] is last
    _replace_last(model, 3)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_importing_the_models_is_cheap() -> None:
    slow = {"timm", "torchvision", "pytorch_lightning", "hydra"}
    code = f"import sys, lpt.models; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


OTHERS = ("lstm", "gpt", "transformer", "ssdlite")  # built in test_conf.py, and in tests of their own
IMAGES = [file for file in sorted(CONF.glob("*.yaml")) if file.stem not in OTHERS]


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.stem)
def test_every_image_model_yaml_builds(file: Path) -> None:
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    names = {"timm": ["model.name=mobilenetv3_small_050"], "torchvision": ["model.name=squeezenet1_1"]}
    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        cfg = compose("config", overrides=[f"model={file.stem}", *names.get(file.stem, [])])
    model = instantiate(cfg.model, classes=4, in_channels=1)
    assert model.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 4)
