"""Programs of torch.export: run in a process that has no lpt, with equal bits; what cannot be traced is told."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lpt
from lpt.errors import UserError
from lpt.exchange import export, to_program
from lpt.exchange.loading import _built
from lpt.models import GPT, ResNet

RESNET = {"depth": 8, "classes": 4, "in_channels": 1}
TEXT = {"vocabulary": 20, "layers": 1, "width": 32, "heads": 2, "context": 8, "tied": True}
TIMM = {"name": "resnet10t", "classes": 4, "in_channels": 1, "example": [2, 1, 32, 32]}
WITHOUT_LPT = """
import json, sys

class Without:
    def find_spec(self, name, *more):
        if name.partition(".")[0] == "lpt":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Without())
import torch

for folder in sys.argv[1:]:
    extra = {"lpt.json": ""}
    program = torch.export.load(f"{folder}/net.pt2", extra_files=extra)
    wanted = torch.load(f"{folder}/wanted.pt")
    for x, y in zip(wanted["inputs"], wanted["outputs"]):
        assert torch.equal(program.module()(x), y), folder
    for name, says in json.loads(extra["lpt.json"])["weights"].items():
        held, table = program.state_dict, torch.tensor(says["table"])
        codes, count = held[f"{name}_codes"], torch.Size(says["shape"]).numel()
        if says["packing"] == "nibbles":
            codes = torch.stack([codes & 15, codes >> 4], 1).flatten()[:count]
        values = torch.ldexp(table[codes.long()].view(says["shape"]), held[f"{name}_scales_exponent"])
        assert torch.equal(values, wanted["weights"][name]), name
assert not [name for name in sys.modules if name.partition(".")[0] == "lpt"]
"""


def trained(model: nn.Module, x: Tensor, weights: str, flow: Any, products: Any = None) -> tuple[Any, ...]:
    """The model after two steps, in evaluation mode, and its handles."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = None if flow is None else lpt.attach_(model, flow)
    if products is not None:
        lpt.attach_products_(model, products)
    quantized = lpt.attach_weights_(model, optimizer, weights)
    for _ in range(2):
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if handle is not None:
            handle.step()
        optimizer.step()
    return model.eval(), quantized, handle, products


UP = lpt.Products(rules=[{"pattern": "*mlp.up", "x": "nvfp4", "w": "mxfp6_e2m3"}])
CASES: dict[str, tuple[Any, ...]] = {
    "ResNet": (RESNET, (1, 8, 8), "log4_hyst", lpt.DataFlow(), None),
    "GPT": (TEXT, None, "int8", lpt.DataFlow("posit8_1", scaling="current", rounding="stochastic"), UP),
    "timm": (TIMM, (1, 32, 32), "int4", None, None),
}


def test_a_process_without_lpt_computes_the_same_bits(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    makes = {"ResNet": ResNet, "GPT": GPT, "timm": lambda **own: _built({"_target_": "lpt.models.timm", **own})}
    some = torch.Generator().manual_seed(0)
    for name, (options, shape, weights, flow, products) in CASES.items():
        (tmp_path / name).mkdir()
        draw = partial(torch.randint, 20) if shape is None else torch.randn
        x = draw((6, *(shape or (8,))), generator=some)
        torch.manual_seed(0)
        model, *handles = trained(makes[name](**options), x, weights, flow, products)
        file = tmp_path / name / "net.safetensors"
        export(model, *handles, to=file, builds={"_target_": f"lpt.models.{name}", **options})
        to_program(file, [x[:2]], to=tmp_path / name / "net.pt2")
        inputs = [x, x[:1]]
        with torch.no_grad():
            wanted = {"inputs": inputs, "outputs": [model(part) for part in inputs], "weights": model.state_dict()}
        torch.save(wanted, tmp_path / name / "wanted.pt")
        with zipfile.ZipFile(tmp_path / name / "net.pt2") as inside:
            whole = b"".join(inside.read(entry) for entry in inside.namelist())
        assert str(Path(lpt.__file__).parents[1]).encode() not in whole and sys.prefix.encode() not in whole
    words = [sys.executable, "-W", "ignore", "-c", WITHOUT_LPT, *(str(tmp_path / name) for name in CASES)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else x


def test_what_cannot_be_traced_is_told_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    export(Branching(), to=file)
    with pytest.raises(UserError, match=r"cannot trace this network: .*to=FILE.safetensors") as told:
        to_program(file, [torch.ones(2, 4)], to=tmp_path / "m.pt2", model=Branching())
    assert "\n" not in str(told.value) and not (tmp_path / "m.pt2").exists()


def test_a_file_that_cannot_be_written_is_an_oserror(tmp_path: Path) -> None:
    export(nn.Linear(4, 2), to=tmp_path / "m.safetensors")
    with pytest.raises(OSError, match="no_such"):
        to_program(
            tmp_path / "m.safetensors", [torch.ones(2, 4)], to=tmp_path / "no_such" / "m.pt2", model=nn.Linear(4, 2)
        )
