"""What the README shows works: its commands compose, its code runs, its table of formats is true."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

import lpt
from lpt.models import ResNet

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    python ")]
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_readme_opens_with_the_two_commands():
    commands = [line.split()[:2] for line in README.splitlines() if line.startswith("    ")][:2]
    assert commands == [["make", "train"], ["make", "test"]]
    makefile = (ROOT / "Makefile").read_text()
    assert "\ntrain:" in makefile and "\ntest:" in makefile


@pytest.mark.parametrize("command", [c for c in COMMANDS if "train.py" in c and "--help" not in c])
def test_every_train_command_composes(command):
    overrides = [word for word in shlex.split(command)[2:] if word != "-m"]
    assert overrides, command
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        single = [re.sub(r"^([\w.]+)=([^\[,]+),.*$", r"\1=\2", o) for o in overrides]  # a sweep's first choice
        cfg = compose("config", single)
    for override in single:
        key, value = override.split("=", 1)
        if "." in key:
            node = cfg
            for part in key.split("."):
                node = node[part]
            assert str(node).replace(" ", "") == value.replace("true", "True")


def test_scripts_named_in_the_readme_exist():
    for command in COMMANDS:
        assert (ROOT / command.split()[1]).exists(), command


def test_the_python_blocks_run(capsys):
    torch.manual_seed(0)
    x = torch.randn(8, 1, 8, 8)
    y = torch.randint(10, (8,))
    for block in BLOCKS:
        model = ResNet(depth=8, classes=10, in_channels=1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        names = {
            "torch": torch, "lpt": lpt, "model": model, "optimizer": optimizer, "batches": [(x, y)] * 2,
            "loss_function": nn.functional.cross_entropy,
            "new_weights": torch.ones(4), "old_weights": torch.tensor([1.0, 1.0, 1.0, 0.0]),
        }  # fmt: skip
        exec(block, names)
    printed = capsys.readouterr().out
    assert "100.0 % of the forward multiply-accumulates" in printed and "0.25" in printed
    log4, weights = lpt.formats.get("log4"), names["weights"]  # the loop's weights are on their grid
    assert all(torch.equal(log4.round(p, weights.scales[n]), p) for n, p in weights.params.items())


ROWS = re.findall(r"^\| `(\w+)` \| ([^|]*) \| (\d+) \| ([\d.]+) \| 2\^-(\d+) \|", README, re.MULTILINE)


@pytest.mark.parametrize("row", ROWS)
def test_the_table_of_formats_is_true(row):
    name, octaves, count, largest, smallest = row
    values = lpt.formats.get(name).values()
    assert len(values) == int(count)
    assert values.max().item() == float(largest)
    assert values[values > 0].min().item() == 2.0 ** -int(smallest)
    if "tapered" not in octaves:
        assert lpt.formats.get(octaves.replace("\N{MULTIPLICATION SIGN}", "x")).octaves == lpt.formats.get(name).octaves


def test_the_table_of_formats_was_found():
    assert len(ROWS) == 7
