"""Every operand of every product, forward and backward, lies on its grid: for every model here."""

import pytest
import torch
from networks import attentive, convolutional, images
from torch import nn

import lpt
from lpt import DataFlow
from lpt.data import digit_scenes
from lpt.dataflow.audit import Audit, on_dual_grid, on_grid
from lpt.dataflow.ops import MatMul
from lpt.models import ResNet, SSDLite, timm, torchvision
from lpt.tasks.detection import Detection
from lpt.tasks.schedules import constant

MODELS = {
    "small": convolutional,
    "attention": attentive,
    "resnet8": lambda: ResNet(depth=8, classes=10, in_channels=3),
    "resnet20": lambda: ResNet(depth=20, classes=10, in_channels=3),
    "torchvision resnet18": lambda: torchvision("resnet18", classes=10),
    "torchvision resnet50": lambda: torchvision("resnet50", classes=10),
    "torchvision mobilenet_v2": lambda: torchvision("mobilenet_v2", classes=10),
    "timm resnet18": lambda: timm("resnet18", classes=10),
    "timm mobilenetv2_100": lambda: timm("mobilenetv2_100", classes=10),
}


def classified(output, target):
    return nn.functional.cross_entropy(output.flatten(0, -2), target.flatten())


def audited(model, x, target, flow=None, scheme="log4_hyst", steps=2, loss=classified):
    """Train a few steps and audit the last one."""
    handle = lpt.attach_(model, flow)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    weights = lpt.attach_weights_(model, optimizer, scheme)
    for _ in range(steps):
        optimizer.zero_grad()
        with Audit(handle, weights) as audit:
            loss(model(x), target).backward()
        handle.step()
        optimizer.step()
    return handle, audit


@pytest.mark.parametrize("name", MODELS)
def test_every_operand_is_on_its_grid(name):
    model = MODELS[name]()
    if name == "attention":
        x, y = torch.randint(20, (4, 5)), torch.randint(10, (4, 5))
    else:
        x, y = images(4)
        x = nn.functional.interpolate(x, size=32)
    _, audit = audited(model, x, y)
    assert audit.off_grid() == []
    products = {o.module for o in audit.operands}
    assert products >= {n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert {o.backward for o in audit.operands} == {False, True}
    # Two values instead of one: the network's input, and the error of its last product. Nothing else.
    last = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    first = next((n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), "")
    dual = {(o.module, o.position) for o in audit.operands if o.grid.endswith("dual")}
    assert dual <= {(first, "input"), (last, "left"), (last, "right")}
    assert audit.covered() == 1.0


def test_every_operand_of_a_detector_is_on_its_grid():
    """All layers whose output is the network's, twelve of them, have their errors in the dual form, and no others."""
    data = digit_scenes(scenes=4, val_scenes=2, size=64)
    model = SSDLite(classes=10, width=0.25, size=64)
    sizes = {"batch_size": 4, "eval_batch_size": 4, "seed": 0}
    task = Detection(model, data, torch.optim.SGD, constant, **sizes)
    batch = data.train.batch(torch.arange(4), None)
    _, audit = audited(model, batch[0], batch, loss=lambda output, batch: task._loss(output, batch)[0])
    assert audit.off_grid() == [] and audit.covered() == 1.0
    products = {o.module for o in audit.operands}
    assert products == {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    dual = {(o.module, o.position) for o in audit.operands if o.grid.endswith("dual")}
    assert dual <= {("features.0.0", "input"), *((name, "error") for name in model.last_products)}


# name, side of the image, options: attention, layer scale, squeeze-and-excitation gates, windows
TIMM = {
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 2},
    "convnext_atto": {},
    "efficientnet_b0": {},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "depths": (1, 1, 1, 1)},
    "regnety_002": {},
    "mixer_s32_224": {"img_size": 32},
}


@pytest.mark.parametrize("name", TIMM)
def test_every_operand_of_a_timm_model_is_on_its_grid(name):
    torch.manual_seed(0)
    model = timm(name, classes=10, **TIMM[name])
    side = TIMM[name].get("img_size", 32)
    _, audit = audited(model, torch.randn(4, 3, side, side), torch.arange(4))
    assert audit.off_grid() == [] and audit.covered() == 1.0
    products = {o.module for o in audit.operands}
    assert products >= {n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear, MatMul))}


def test_grids_of_a_e_and_w_are_told_apart():
    flow = DataFlow(activation="fp143", error="fp125", input="single", last_error="single")
    _, audit = audited(convolutional(), *images(4), flow, "int8_hyst")
    assert audit.off_grid() == []
    kinds = {(o.position, o.grid) for o in audit.operands if o.backward and "convolution" in o.operator}
    assert kinds == {("error", "E"), ("input", "A"), ("weight", "W")}


def test_the_audit_finds_what_hooks_do_not_see():
    class Leaky(nn.Module):
        """A sum in the middle of forward, where no module is."""

        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.two(self.one(x) + x / 3)

    _, audit = audited(Leaky(), torch.randn(5, 6), torch.randint(6, (5,)))
    assert {(o.module, o.position) for o in audit.off_grid() if not o.backward} == {("two", "left")}
    assert audit.covered() == 0.5


def test_a_stray_sum_of_two_values_on_the_grid_is_found():
    """It looks like the dual form, but no quantizer made it; the report says so."""

    class Leaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.three = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x):
            x = self.one(x)
            return self.three(x + self.two(x))

    handle, audit = audited(Leaky(), torch.randn(5, 6), torch.randint(6, (5,)))
    assert {(o.module, o.position) for o in audit.off_grid() if not o.backward} == {("three", "left")}
    report = str(handle.report(torch.randn(5, 6)))
    assert "66.7 % of the forward" in report and "not on a grid: left of addmm in three" in report


def test_the_audit_finds_fused_kernels():
    model = nn.Sequential(nn.LSTM(4, 4))
    handle = lpt.attach_(model)
    with Audit(handle) as audit, torch.no_grad():
        model(torch.randn(3, 2, 4))
    assert any(o.position == "hidden" for o in audit.off_grid()) or audit.off_grid()


def test_without_quantization_everything_is_off_the_grid():
    model = convolutional()
    handle = lpt.attach_(model)
    x, y = images(4)
    with handle.off(), Audit(handle) as audit:
        nn.functional.cross_entropy(model(x), y).backward()
    off = audit.off_grid()
    assert all(o.parameter or o in off for o in audit.operands)
    assert audit.covered() == 0.0


@pytest.mark.parametrize("name", ["fp134", "int8", "log4", "posit8_1", "fp152", "int8_full", "ocp_e4m3"])
def test_on_grid_accepts_levels_and_refuses_everything_else(name):
    format = lpt.formats.get(name)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, generator=generator)
    for scale in (-20, 0, 7):
        level = format.round(x * 2.0**scale, format.scale_of(x * 2.0**scale) + 3)
        assert on_grid(level, format)
        level[3] += level.abs().max() * 2.0**-20
        assert not on_grid(level, format)
    assert not on_grid(x, format) and not on_dual_grid(x, format)
    assert on_grid(torch.zeros(3), format) and on_grid(torch.zeros(0), format)
