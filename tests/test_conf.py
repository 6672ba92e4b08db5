"""Every yaml composes and builds, and `--help` tells of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from running import ROOT, main

from lpt.callbacks.quantization import Quantization
from lpt.errors import UserError
from lpt.models import ResNet
from lpt.runs.build import build, maker
from lpt.runs.parts import make_quantization
from lpt.runs.tracking import trackers

CONF = ROOT / "conf"
# Those of scripts/reproduce.py are no groups of train.py's; tests/test_reproduce.py composes what they describe.
OTHER = ("reproduce", "size")
CHOICES = [(p.parent.name, p.stem) for p in sorted(CONF.glob("*/*.yaml")) if p.parent.name not in OTHER]
# Values for the keys that a choice leaves to the user.
GIVEN = {
    ("format", "custom"): ["format.value=[5,4,4,3,2,1]"],
    ("products", "stochastic_errors"): ["products.value=mxfp4"],
    ("weights", "custom"): ["weights.scheme=hysteresis", "weights.format=int3", "weights.width=0.5"],
    **{
        ("remedy", name): ["weights=int4"]
        for name in ("q_ema", "rate_hysteresis", "drift_hysteresis", "debounce", "settling")
    },
    ("model", "timm"): ["model.name=resnet10t"],
    ("model", "torchvision"): ["model.name=resnet34"],
}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def narrow() -> ResNet:
    return ResNet(8, classes=10, width=8, in_channels=1)


def quantizes(cfg: DictConfig) -> None:
    make_quantization(cfg).check(narrow())


# Models of text and of boxes: what their data tell them, and an input.
SENTENCE = torch.ones(1, 3, dtype=torch.int64)
OTHERS: dict[str, tuple[dict[str, int], tuple[torch.Tensor, ...]]] = {
    "lpt.models.LSTMLanguageModel": ({"vocabulary": 7}, (SENTENCE,)),
    "lpt.models.GPT": ({"vocabulary": 7}, (SENTENCE,)),
    "lpt.models.Transformer": ({"vocabulary": 7, "pad": 0}, (SENTENCE, SENTENCE)),
    "lpt.models.SSDLite": ({"classes": 6}, (torch.zeros(1, 3, 320, 320),)),  # and the background
}


def builds_model(cfg: DictConfig) -> None:
    images = {"classes": 7, "in_channels": 3}, (torch.zeros(1, 3, 64, 64),)
    arguments, inputs = OTHERS.get(cfg.model._target_, images)
    model = build("model", cfg.model, **arguments)
    with torch.no_grad():
        out = model.eval()(*inputs)
    assert (out if isinstance(out, torch.Tensor) else out[0]).shape[-1] == 7
    Quantization(make_quantization(cfg).make_flow, maker("weights", cfg.weights)).check(model)


def builds_data(cfg: DictConfig) -> None:
    if cfg.data.get("download") is False:
        with pytest.raises(UserError, match=r"data\.download=true"):
            build("data", cfg.data, path="/nowhere")
    elif place := {"path", "root"} & set(cfg.data.keys()):
        with pytest.raises(UserError, match="nowhere"):
            build("data", cfg.data, **dict.fromkeys(place, "/nowhere"))
    else:
        data = build("data", cfg.data)
        val = data.val.columns(4, 7) if hasattr(data.val, "columns") else data.val  # running text
        x, *_ = val.batch(torch.arange(4), None)
        sizes = {"digits": 10, "digit_scenes": 10, "pydoc": 1000, "number_names": 300}
        told = data.model_arguments()
        assert len(x) == 4 and data.source and told.get("classes", told.get("vocabulary")) == sizes[data.name]


def makes_loggers(cfg: DictConfig) -> None:
    """Without the packages of some, they are told in one line."""
    try:
        trackers(cfg, folder=Path("nowhere") / "run", config={}, run_id="id", about={})
    except UserError as error:
        assert str(error).startswith(f"logger={cfg.logger._target_.rpartition('.')[2]} needs the package")


def schedules(cfg: DictConfig) -> None:
    factor = maker("scheduler", cfg.scheduler)(100)
    assert all(0 <= factor(step) <= 1 for step in range(101)) and max(factor(step) for step in range(101)) == 1


BUILDERS: dict[str, Callable[[DictConfig], object]] = {
    "data": builds_data,
    "experiment": lambda cfg: build("trainer", cfg.trainer),
    "format": quantizes,
    "products": quantizes,
    "recipe": quantizes,
    "remedy": quantizes,
    "indicators": lambda cfg: [build(name, node) for name, node in cfg.indicators.items()],
    "averaging": lambda cfg: cfg.averaging._target_ is None or build("averaging", cfg.averaging),
    "debug": lambda cfg: build("trainer", cfg.trainer),
    "logger": makes_loggers,
    "model": builds_model,
    "optimizer": lambda cfg: build("optimizer", cfg.optimizer, params=narrow().parameters()),
    "scheduler": schedules,
    "task": lambda cfg: maker("task", cfg.task),
    "trainer": lambda cfg: build("trainer", cfg.trainer),
    "weights": quantizes,
}


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=["-".join(choice) for choice in CHOICES])
def test_every_choice_composes_and_builds(group: str, name: str) -> None:
    assert group in BUILDERS, f"say in tests/test_conf.py how a choice of conf/{group} is built"
    BUILDERS[group](composed(f"{group}={name}", *GIVEN.get((group, name), [])))


@pytest.mark.parametrize(("group", "name"), CHOICES, ids=["-".join(choice) for choice in CHOICES])
def test_every_file_says_what_it_is(group: str, name: str) -> None:
    text = (CONF / group / f"{name}.yaml").read_text()
    assert "#" in text.splitlines()[0] or group in ("trainer", "optimizer", "scheduler"), "begin with a comment"


# epochs, factor on the learning rate, and the epochs at which it comes
PAPER = {
    "resnet18_imagenet": (90, 0.1, [30, 60]),
    "resnet50_imagenet": (120, 0.1, [30, 60, 90]),
    "resnet18_cifar10": (350, 0.1, [150, 250]),
    "resnet18_cifar100": (200, 0.2, [60, 120, 160]),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_schedules(name: str) -> None:
    epochs, gamma, milestones = PAPER[name]
    cfg = composed(f"experiment={name}")
    per_epoch = 5004 if "imagenet" in name else 390  # steps
    factor = maker("scheduler", cfg.scheduler)(epochs * per_epoch)
    drops = [e for e in range(1, epochs) if factor(e * per_epoch) < factor(e * per_epoch - 1)]
    assert cfg.trainer.epochs == epochs and drops == milestones
    assert factor(epochs * per_epoch - 1) == pytest.approx(gamma ** len(milestones))
    assert all(factor(e * per_epoch - 1) == factor((e - 1) * per_epoch) for e in range(1, epochs))


VISION = [p.stem for p in CONF.glob("experiment/*.yaml") if p.stem.split("_")[0][:6] in ("resnet", "mobile", "ssdlit")]


@pytest.mark.parametrize("name", VISION)
def test_experiments_compose_with_other_choices(name: str) -> None:
    data, key = ("voc", "data.root") if name == "ssdlite_voc" else ("imagefolder", "data.path")
    given = [f"data={data}", f"{key}=DIR", "format=fp143", "weights=int8_hyst", "trainer.epochs=2", "optimizer.lr=0.01"]
    cfg = composed(f"experiment={name}", *given)
    assert cfg.data.name == data and cfg.format.error == "fp143" and cfg.weights.format == "int8"
    assert (cfg.trainer.epochs, cfg.optimizer.lr, cfg.optimizer.momentum) == (2, 0.01, 0.9)


def test_help_lists_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--help") == 0
    text = capsys.readouterr().out
    choices = {line.split(": ")[0]: line.split(": ")[1].split(", ") for line in text.splitlines() if ": " in line}
    for group, name in CHOICES:
        assert name in choices[group]
    assert "resume=true" in text and "_target_: lpt.DataFlow" in text


def test_format_sets_all_three_and_each_can_be_changed() -> None:
    assert [composed().format[kind] for kind in ("activation", "error", "gradient")] == ["fp134"] * 3
    one = composed("format=fp143", "format.error=fp152").format
    assert [one[kind] for kind in ("activation", "error", "gradient")] == ["fp143", "fp152", "fp143"]
    flow = make_quantization(composed("format=custom", "format.value=[5,5,4,4,3,2,1]")).make_flow
    assert list(flow.activation) == list(flow.gradient) == [5, 5, 4, 4, 3, 2, 1]


def test_the_defaults_are_those_of_the_design() -> None:
    cfg = composed()
    assert (cfg.weights.scheme, cfg.weights.format, cfg.weights.width) == ("hysteresis", "log4", 1.0)
    assert (cfg.format.input, cfg.format.last_error, cfg.format.rounding) == ("dual", "dual", "nearest")
    assert (cfg.model.depth, cfg.data._target_, cfg.seed, cfg.logger.mode) == (8, "lpt.data.digits", 0, "offline")
    assert (cfg.weights.master, cfg.weights.skip, cfg.compile) == ("fp32", [], "auto")
