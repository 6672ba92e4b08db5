"""scripts/synthesize.py and cost=synthesis: what they leave, print and refuse; measuring on real tensors."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from running import TINY
from torch import nn

import lpt
from lpt.errors import UserError
from lpt.hardware import library, synthesis, yosys
from lpt.hardware.figures import PARTS
from lpt.hardware.measuring import coded, encoded, fits
from lpt.hardware.operands import blocks
from lpt.hardware.streams import STREAMS, Stream, collect
from lpt.hardware.unit import Unit
from lpt.reproductions.hardware import costs
from lpt.reproductions.plan import Plan
from lpt.runs.run import main
from lpt.runs.searching import rank
from lpt.runs.synthesizing import listed, ratio, synthesize

needs_pyosys = pytest.mark.skipif(
    not yosys.available(), reason="pyosys is not installed (pip install -e '.[hardware]')"
)


def command(config: str, work: Callable, folder: Path, *overrides: str) -> int:
    before = sys.argv
    words = listed(overrides) if config == "synthesize" else overrides
    sys.argv = [f"scripts/{config}.py", *TINY, "indicators=none", f"paths.outputs={folder}", *words]
    try:
        return main(config, work)
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before


SMALL = ("formats=[int3,log2*int3,mxfp4]", "accumulator=fixed:12,fp:1", "ways=1", "data.train_limit=32")


@needs_pyosys
def test_a_command_leaves_tables_and_verilog_and_typed_again_synthesizes_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("synthesize", synthesize, tmp_path, *SMALL) == 0
    out, err = capfd.readouterr()
    assert "pyosys" in out and "no unit: accumulator=fixed:12: no fixed point" in out and "5 of 5" in err
    folder = tmp_path / "synthesis"
    (table,) = folder.glob("table-????????.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [(row["format"], row["accumulator"]) for row in rows] == [
        ("int3", "fixed:12"), ("log2*int3", "fixed:12"), ("int3", "fp:1"), ("log2*int3", "fp:1"), ("mxfp4", "fp:1")
    ]  # fmt: skip
    assert float(rows[1]["gates"]) < float(rows[0]["gates"]) and rows[0]["to the first"] == "1.00"
    for row in rows:
        kept = json.loads((folder / row["Verilog"]).with_suffix(".json").read_text())
        assert kept["tool"] == yosys.version() and len(kept["library"]) == 12
        assert f"module {kept['unit']}(" in (folder / row["Verilog"]).read_text()
    work = list(csv.DictReader((folder / f"{table.stem}-2.csv").read_text().splitlines()))
    assert float(work[0]["energy A x W"]) > 0 and float(work[2]["error A x W"]) > 0.01
    assert work[1]["error E x A"] == "" != work[0]["error E x A"], "a pair has weights on one side"

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("synthesized again")

    monkeypatch.setattr(yosys, "cells", refuse)
    assert command("synthesize", synthesize, tmp_path, *SMALL) == 0
    assert out.endswith(capfd.readouterr().out)  # (the first time, the training's table stands before it)


@needs_pyosys
def test_a_search_with_syntheses_as_costs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = ("batches=2", "formats=[int3,log3,fp16]", "top=1", "layers=0", "cost=synthesis", "accumulator=fixed:14")
    assert command("search", rank, tmp_path, *few) == 0
    assert "FP134" not in capfd.readouterr().out
    (folder,) = tmp_path.glob("search-*")
    costs = {row["name"]: row["cost"] for row in csv.DictReader((folder / "ranking.csv").read_text().splitlines())}
    own = synthesis.Workshop(tmp_path / "synthesis").costs(Unit.read("int3", "fixed:14"))["gates"]
    assert float(costs["int3"]) == pytest.approx(own, abs=0.06) and costs["fp16"] == ""
    told = json.loads((folder / "summary.json").read_text())["costs"]
    assert "accumulator fixed:14" in told and yosys.version() in told


@needs_pyosys
def test_the_table_says_where_the_papers_claim_holds_and_where_it_turns(tmp_path: Path) -> None:
    plan = Plan.read("hardware_cost", "smoke")
    plan.outputs = tmp_path
    plan.options = {"formats": ["fp134", "fp143", "log4*fp134"], "accumulators": ["exact", "fixed:24"]}
    (model, beside, claim), (figure,), notes = costs(plan, [])
    assert [row[0] for row in model.rows] == ["fp134", "fp143"] and yosys.version() in notes[0]
    assert [row[-1] for row in claim.rows] == ["FP134 costs less: the claim holds", "FP143 costs less: the claim turns"]
    assert beside.rows[2][1] is None and beside.rows[0][3] == "1.00"
    assert [series.label for series in figure.series] == ["model (exact)", "exact", "fixed:24"]


def test_without_pyosys_the_table_has_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yosys.util, "find_spec", lambda name: None)
    tables, figures, notes = costs(Plan.read("hardware_cost", "smoke"), [])
    assert len(tables) == len(figures) == 1 and "pip install" in notes[0]


@pytest.mark.parametrize(
    ("config", "override", "said"),
    [("synthesize", "formats=[]", "formats is empty"), ("synthesize", "formats=[fp199]", "fp199"),
     ("synthesize", "accumulator=fixed", "fixed:T"), ("synthesize", "ways=0", "from 1 to 64"),
     ("synthesize", "fpga=yes", "true or false"), ("synthesize", "library=/nowhere.lib", "nowhere.lib"),
     ("synthesize", "wais=1", "Did you mean ways"), ("search", "cost=real", "model, synthesis"),
     ("search", "accumulator=fp:9", "cost=synthesis")],
)  # fmt: skip
def test_mistakes_end_with_2(
    tmp_path: Path, config: str, override: str, said: str, capfd: pytest.CaptureFixture
) -> None:
    work = {"synthesize": synthesize, "search": rank}[config]
    assert command(config, work, tmp_path, override) == 2
    assert said in capfd.readouterr().err and not list(tmp_path.iterdir())


def test_without_pyosys_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(yosys.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[hardware\]'"):
        synthesis.Workshop(tmp_path)


@needs_pyosys
def test_a_folder_that_cannot_be_written_ends_with_2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "synthesis").write_text("")
    assert command("synthesize", synthesize, tmp_path, "formats=[int3]", "tensors=false") == 2
    told = capfd.readouterr().err
    assert "cannot be written" in told and "checkpoint" not in told and "1 of 1" not in told


@needs_pyosys
def test_a_table_is_found_again_by_what_is_in_the_library(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("formats=[int3]", "accumulator=fixed:12", "tensors=false")
    own = library.OWN.read_text()
    for name, content in (("a.lib", own), ("b.lib", own), ("a.lib", own + "\n")):
        (tmp_path / name).write_text(content)
        library.read.cache_clear()
        monkeypatch.setattr(synthesis.Workshop, "_costs", lambda *_: dict.fromkeys(
            ("gates", "gates_a_product", "transistors", "delay", "cases", "pairs"), 1.0))  # fmt: skip
        monkeypatch.setattr(synthesis.Workshop, "parts", lambda *_: dict.fromkeys(PARTS, 0.0))
        assert command("synthesize", synthesize, tmp_path, f"library={tmp_path / name}", *words) == 0
        tables = len(list((tmp_path / "synthesis").glob("table-????????.csv")))
        assert tables == (1 if content == own else 2)


def test_lists_need_no_brackets() -> None:
    assert listed(["ways=1,16", "accumulator=exact", "formats=[fp134]", "seed=1"]) == [
        "ways=[1,16]", "accumulator=[exact]", "formats=[fp134]", "seed=1"
    ]  # fmt: skip
    assert listed(["-m", "ways=1,16"]) == ["-m", "ways=1,16"]


def test_areas_that_are_near_are_a_tie() -> None:
    assert (ratio(1.0), ratio(1.015), ratio(0.95)) == ("1.00", "1.01 (tie)", "0.95")


# -- real tensors ------------------------------------------------------------------------------------------------------


def test_streams_hold_the_operands_of_the_three_products() -> None:
    """Dot products of the streams are entries of the layer's output, gradient and error handed back."""
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 32, 1, bias=False)
    x = torch.randn(2, 32, 4, 4, requires_grad=True)
    kept: list[torch.Tensor] = []

    def loss() -> torch.Tensor:
        y = layer(x)
        y.retain_grad()
        kept.append(y)
        return (y**2).sum()

    streams = {stream.kind: stream for stream in collect(layer, loss)}
    weight = torch.autograd.grad((layer(x) ** 2).sum(), layer.weight)[0]
    for kind, whole in (("A x W", kept[0]), ("E x W", x.grad), ("E x A", weight)):
        stream = streams[kind]
        sums, entries = (stream.x * stream.y).sum(1), whole.flatten()
        assert all((entries - s).abs().min() < 1e-3 for s in sums), kind
        assert stream.x.shape == (STREAMS, 32)


def test_a_strided_convolution_and_a_linear_layer() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(32, 40))
    found = collect(model, lambda: model(torch.randn(5, 4, 4, 4)).square().sum())
    shapes = [(stream.kind, stream.x.shape[1]) for stream in found]
    assert shapes == [("A x W", 32), ("A x W", 32), ("E x W", 32)] and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", ["fp134", "posit8_1", "int8_full", "mxfp4", "nvfp4"])
def test_codes_of_a_tensor_mean_its_rounded_values(name: str) -> None:
    torch.manual_seed(1)
    x = torch.randn(STREAMS, 64) * 3
    found = blocks(name)
    codes, scales = encoded(found, x, x.abs().max().item())
    worth = np.array([np.nan if w is None else float(w) for w in found.element.worth])[codes]
    if scales is not None:
        worth = worth * np.repeat(np.array([float(w or 0) for w in found.scale.worth])[scales], found.block, 1)
    if found.scale is not None:
        want = x.numpy() / x.abs().max().item() * np.abs(worth).max()
        assert np.sqrt(((worth - want) ** 2).mean()) < 0.2 * want.std()
    if found.scale is None:
        format = lpt.formats.get(name)
        scale = format.scale_of(torch.tensor([x.abs().max().item()]))
        assert np.allclose(worth * 2.0 ** (found.element.unit + scale.item()), format.round(x, scale).numpy())


def test_a_pair_takes_weights_first_and_ways_go_along_the_sum() -> None:
    x, y = torch.randn(STREAMS, 32), torch.randn(STREAMS, 32)
    unit = Unit.read("log4*fp134", "exact", 4)
    codes, steps = coded(unit, Stream("A x W", x, y, 4.0, 4.0))
    assert steps == 8 and codes["a"].shape == (4, 8 * STREAMS) and codes["a"].max() <= 15 < codes["b"].max()
    again, _ = coded(Unit.read("log4*fp134"), Stream("A x W", x, y, 4.0, 4.0))
    assert (unit.terms(codes).reshape(4, 8, STREAMS).sum((0, 1))
            == unit.terms(again).reshape(32, STREAMS).sum(0)).all()  # fmt: skip
    assert fits(unit, "E x W") and not fits(unit, "E x A") and fits(Unit.read("fp134"), "E x A")
