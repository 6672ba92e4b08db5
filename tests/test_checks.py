"""Errors that nobody would see are caught, by name; looking for them changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from running import ROOT, checkpoint, differences, summary, train
from torch import nn

from lpt.callbacks import checks
from lpt.callbacks.checks import Checks, disagreeing
from lpt.callbacks.quantization import Quantization
from lpt.dataflow import DataFlow, attach_
from lpt.dataflow.fired import Watched
from lpt.errors import UserError
from lpt.models import ResNet
from lpt.runs.parts import make_quantization
from lpt.weights import QuantizedWeights
from lpt.weights.checked import checksums, odd_scales, off_grid

SABOTAGE = {
    "edge": "conv: its Edge never rounded an activation in the first step",
    "product": "fc: its product never ran with rounded operands in the first step",
    "weight": "fc.weight: a value of this weight is off its grid after step 1",
    "scale": "fc.weight: a scale of this weight is infinite or zero after step 1",
    "tracked": "conv/activation:0: the tracked scale is infinite or zero after step 1",
    "buffer": "the indicator Sabotage changed it at step 1",
    "mode": "the mode of the model: the indicator Sabotage changed it at step 1",
    "generator": "torch's generator: the indicator Sabotage changed it at step 1",
}


@pytest.mark.parametrize("what", SABOTAGE)
def test_what_nobody_would_see_is_an_error_with_a_name(
    what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spy = ("+indicators.spy._target_=spies.Sabotage", f"+indicators.spy.what={what}", "trainer.max_steps=2")
    assert train(tmp_path, *spy, "model.width=4", "products=mxfp8", "indicators=none") == 1
    said = capfd.readouterr().err
    assert SABOTAGE[what] in said and "Traceback" not in said, said
    assert summary(tmp_path)["status"] == "failed"


def test_off_does_not_look(tmp_path: Path) -> None:
    spy = ("+indicators.spy._target_=spies.Sabotage", "+indicators.spy.what=edge", "trainer.max_steps=1")
    assert train(tmp_path, *spy, "model.width=4", "checks=off") == 0


def test_looking_changes_nothing(tmp_path: Path) -> None:
    settings = ("model.width=4", "trainer.epochs=1", "format.rounding=stochastic", "weights=log4_sr", "products=nvfp4",
                "indicators=default", "indicators.angles.every=2", "indicators.angles.batch_size=4")  # fmt: skip
    for mode in ("off", "always"):
        assert train(tmp_path / mode, *settings, f"checks={mode}") == 0
    assert differences(checkpoint(tmp_path / "off"), checkpoint(tmp_path / "always")) == []
    assert [path.name for path in (tmp_path / "off").iterdir()] == [p.name for p in (tmp_path / "always").iterdir()]


def test_another_mode_is_told() -> None:
    assert Checks(False).mode == "off"  # as yaml reads it
    with pytest.raises(UserError, match="off, first, always"):
        Checks("sometimes")


# -- the parts -------------------------------------------------------------------------------------------------------


FORMATS = ("int4", "log4", "fp134", "posit8_1", "ocp_e4m3", "bf16", "mxfp4", "nvfp4", "bm8_a")


@pytest.mark.parametrize("format", FORMATS)
def test_the_weights_of_every_format_lie_on_its_grid(format: str) -> None:
    model = ResNet(8, classes=3, width=8, in_channels=1)
    with torch.no_grad():
        model.fc.weight.zero_()
    weights = QuantizedWeights(model, "nearest", format=format)
    assert off_grid(weights) == [] and odd_scales(weights) == []
    before = checksums(weights)
    name = weights.names[1]
    view = weights.params[name].data.view(-1)
    view[:2] = view[:2].flip(0).clone() if view[0] != view[1] else view[:2] + 1
    changed = (checksums(weights) != before).nonzero().flatten().tolist()
    assert changed == [1], "the order of values counts"
    view[0] = 1 / 3 if format != "bf16" else 1 + 2**-20
    assert off_grid(weights) == [name]


REMEDIES = [path.stem for path in sorted((ROOT / "conf" / "remedy").glob("*.yaml"))]


@pytest.mark.parametrize("choice", [*(f"remedy={name}" for name in REMEDIES), "weights=nvfp4_hyst", "weights=int8_sr"])
def test_what_no_scheme_or_remedy_does_is_taken_for_a_mistake(choice: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        quantization = make_quantization(compose("config", overrides=["weights=int4", choice]))
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Flatten(), nn.Linear(64, 32))
    weights = quantization.make_weights(model)
    weights.steps = 8
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    for _ in range(4):
        optimizer.zero_grad()
        model(torch.randn(8, 1, 4, 4)).square().sum().backward()
        weights.swap_in(optimizer)
        optimizer.step()
        weights.update(optimizer)
        assert off_grid(weights) == [] and odd_scales(weights) == []


def test_weights_that_ranks_disagree_on_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    quantization = Quantization(DataFlow(), lambda m: QuantizedWeights(m, "log4"))
    quantization.weights = quantization.make_weights(ResNet(8, classes=3, width=8, in_channels=1))
    monkeypatch.setattr(checks, "every_rank", lambda sums: [sums, sums])
    assert disagreeing(quantization) == []
    monkeypatch.setattr(checks, "every_rank", lambda sums: [sums, sums + (torch.arange(len(sums)) == 2)])
    assert disagreeing(quantization) == [quantization.weights.names[2]]


class Odd(nn.Module):
    """Has a layer that nobody uses, one whose weight alone is used, one that is run, and a tied one."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.bypassed, self.run, self.tied = (nn.Linear(4, 4) for _ in range(4))
        self.tied.weight, self.tied.bias = self.run.weight, self.run.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.run(x), self.bypassed.weight)


def test_a_layer_that_is_bypassed_is_found_and_one_that_is_unused_is_not() -> None:
    model = Odd()
    flow = attach_(model, DataFlow())
    model(torch.randn(3, 4))
    watched = Watched(flow, None)
    model(torch.randn(3, 4)).sum().backward()
    assert watched.silent() == {"bypassed": "its Edge never rounded an activation"}
    watched.close()
    assert not flow.mode.counting and all(len(m._forward_hooks) <= 1 for m in model.modules() if m is not model)
