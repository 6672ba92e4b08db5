"""scripts/search_formats.py and the correlations of scripts/reproduce.py: what they leave, print and refuse."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from running import TINY
from scipy import stats

import lpt
from lpt.report.sections import read
from lpt.reproductions import correlation
from lpt.reproductions.indicators import NAMES, scheme
from lpt.runs.run import main
from lpt.runs.searching import rank
from lpt.search import Probe

SMALL = (*TINY, "indicators=none", "batches=6", "formats=[fp134,fp143,fp152,int8,int6,posit8_0]", "top=2", "layers=1")


def search(folder: Path, *overrides: str, small: tuple[str, ...] = SMALL) -> int:
    before = sys.argv
    sys.argv = ["scripts/search_formats.py", *small, f"paths.outputs={folder}", *overrides]
    try:
        return main("search", rank)
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before


def found(folder: Path, start: str) -> Path:
    (only,) = [path for path in folder.iterdir() if path.name.startswith(start)]
    return only


def test_a_search_trains_measures_and_typed_again_prints(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert search(tmp_path) == 0
    out, err = capfd.readouterr()
    assert "trained first" in err and "± " in out and "with 9" in out and "FP134 is" in out
    assert "Warning" not in out + err
    folder = found(tmp_path, "search-resnet8-digits-race-")
    names = {path.name for path in folder.iterdir()} - {".lock"}
    figures = {f"{n}.{s}" for n in ("dynamic_range", "error_activation", "pareto", "layers") for s in ("png", "svg")}
    assert names == figures | {"config.yaml", "evaluations.jsonl", "ranking.csv", "ranking.txt", "summary.json"}
    rows = list(csv.DictReader((folder / "ranking.csv").read_text().splitlines()))
    assert [int(row["rank"]) for row in rows] == list(range(1, 7)) and rows[0]["top"] == "True"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["confidence"] >= 0.95 and summary["wall_seconds"] > 0

    def refuse(self: Probe, batch: object) -> None:
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr(Probe, "at", refuse)
        assert search(tmp_path) == 0
        text = (folder / "ranking.txt").read_text()
        assert capfd.readouterr().out.strip() == text.strip() and text in out
    # The model's run, named; it needs no model=, and other weights make another search.
    run = found(tmp_path, "resnet8-digits-fp32-fp32-seed0-")
    assert search(tmp_path, f"checkpoint={run}", "method=exhaustive", "activation=propagated") == 0
    assert "every format on every one of 6 batches" in capfd.readouterr().out
    known = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(known | {"data": "another"}))
    few = ("batches=2", "batch_size=16", "formats=[fp134,int8]", "trainer.accelerator=cpu", "logger.mode=disabled")
    assert search(tmp_path, f"checkpoint={run}", small=few) == 0  # model and data of the run, and their names
    found(tmp_path, "search-resnet8-another-race-")
    # A state dict
    state = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    torch.save({k.removeprefix("model."): v for k, v in state.items()}, tmp_path / "weights.pt")
    assert search(tmp_path, f"checkpoint={tmp_path / 'weights.pt'}") == 0
    assert search(tmp_path, f"checkpoint={tmp_path / 'weights.pt'}", "model.width=12") == 2
    assert "another model" in capfd.readouterr().err


def test_block_formats_and_a_suggestion_that_a_training_takes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slots = ("candidates=[mxfp4,{element: fp134, block: 16},recipe:tetrajet]", "menu=[mxfp4,mxfp8_e4m3]", "budget=6")
    few = (*TINY, "indicators=none", "batches=3", "top=2", "layers=0", "systematic=2", "slots=1", "logger.mode=offline")
    assert search(tmp_path, *slots, small=few) == 0
    out = capfd.readouterr().out
    assert "what turns the gradient most" in out and "suggested: the least angle at 6 bits" in out
    assert "--config-dir" in out and "noise to signal" in out
    folder = found(tmp_path, "search-resnet8-digits-race-")
    assert {"slots.png", "mixed.png", "bits.png", "slots.json"} <= {path.name for path in folder.iterdir()}
    rows = list(csv.DictReader((folder / "ranking.csv").read_text().splitlines()))
    assert {row["name"] for row in rows} == {"mxfp4", "fp134/16/e8m0/floor", "recipe:tetrajet"}
    section = read(folder)
    assert section.tables[0].title.startswith("Suggested assignment") and not section.warnings
    assert {"slots", "mixed", "bits"} <= {figure.file for figure in section.figures}
    suggested = yaml.safe_load((folder / "conf" / "products" / "suggested.yaml").read_text())
    assert lpt.Products(**suggested).asked
    before, sys.argv = sys.argv, [
        "train.py", "--config-dir", str(folder / "conf"), "products=suggested", *TINY, "weights=fp32", "format=fp32",
        "indicators=none", "trainer.max_steps=2", "compile=false", f"paths.outputs={tmp_path / 'trained'}",
    ]  # fmt: skip
    try:
        assert main() == 0
    finally:
        sys.argv = before
    [line] = [line for line in out.splitlines() if line.startswith("train in it")]
    assert "compile=false" in line and "menu" not in line, "the job of the search, and nothing of the search"
    run = found(tmp_path, "resnet8-digits-")  # of another model than is usual, which the command must tell
    assert search(tmp_path / "b", *slots, f"checkpoint={run}", "systematic=0", small=few[len(TINY) :]) == 0
    [line] = [line for line in capfd.readouterr().out.splitlines() if line.startswith("train in it")]
    assert "model=resnet8_searched data=digits_searched task=searched" in line
    files = {path.name for path in found(tmp_path / "b", "search-").glob("conf/*/*.yaml")}
    assert files == {"resnet8_searched.yaml", "digits_searched.yaml", "searched.yaml", "suggested.yaml"}
    assert search(tmp_path, *slots, "budget=2", small=few) == 2
    assert "below the cheapest" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("override", "said"),
    [("formats=[]", "empty"), ("formats=[fp199]", "fp199"), ("batches=1", "from 2 upward"), ("method=fast", "race"),
     ("by=all", "error, activation, both"), ("batch_size=0", "batch_size=0"), ("checkpoint=/nowhere", "no checkpoint"),
     ("batch_size=5000", "batch"), ("metod=race", "Did you mean method"), ("top=x", "top='x'"),
     ("candidates=[recipe:tetra]", "nearest is"), ("menu=[mxfp4]", "two formats"), ("bound=3", "menu="),
     ("candidates=blocks4", "not a list")],
)  # fmt: skip
def test_mistakes_end_with_2_before_anything_is_written(
    tmp_path: Path, override: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert search(tmp_path, override) == 2
    assert said in capfd.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("search")]


# -- correlation -------------------------------------------------------------------------------------------------------


def test_bootstrap_of_spearmans_correlation() -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=40)
    results = x[:, None] + generator.normal(0, 0.5, (40, 5))
    whole, low, high = correlation.bootstrap(x, results)
    assert whole == pytest.approx(stats.spearmanr(x, results.mean(1)).statistic)
    assert low < whole < high and 0.02 < high - low < 0.4
    assert correlation.bootstrap(-x, results)[0] == pytest.approx(-whole)


def test_the_arms_of_the_table_are_candidates_of_the_search() -> None:
    plan = correlation.Plan.read("correlation", "cpu")
    made = {arm: scheme(arm, text) for arm, text in plan.arms.items() if arm != "FP32"}
    assert len(made) >= 24 and sum(each.products is not None for each in made.values()) >= 12
    assert made["fp134"].activation == lpt.formats.get("fp134") and made["mxfp4"].format == lpt.formats.get("mxfp4")
    assert made["nvfp4 random errors"].random and not made["nvfp4"].random
    assert all(each.name == arm for arm, each in made.items())


def test_a_table_is_made_of_the_schemes_whose_runs_are_done(tmp_path: Path) -> None:
    """Of runs as they lie in folders, with what was measured beside them; and without what is not finished."""
    arms = ["fp134", "int5", "mxfp4", "nvfp4", "log4"]
    plan = correlation.Plan.read("correlation", "cpu", only={"models": ["ResNet-8"], "arms": arms})
    runs = []
    for i, arm in enumerate(["FP32", *arms]):
        for seed in (0, 1):
            path = tmp_path / f"{arm}-{seed}"
            path.mkdir()
            status = "running" if (arm, seed) == ("log4", 1) else "diverged" if arm == "int5" else "finished"
            figures = {"val/loss": i + seed / 10, "train/loss": i, "val/accuracy": 1 - i / 10}
            text = {"status": status, "seed": seed, "steps": 20, **(figures if status == "finished" else {})}
            (path / "summary.json").write_text(json.dumps(text))
            (path / "config.yaml").write_text(f"seed: {seed}\n")
            (path / "metrics.csv").write_text(f"step,train/loss\n10,{i + 1}\n20,{i}\n")
            runs.append(correlation.Run("config", (("model", "ResNet-8"), ("arm", arm)), seed, (), path))
    whole = arms[:4]
    key = {"schemes": whole, "batches": plan.options["batches"], "indicators": list(NAMES)}
    values = {name: [1.0, 9.0, 3.0, 4.0] for name in NAMES}
    (tmp_path / "FP32-0" / "indicators.json").write_text(json.dumps({"key": key, "values": values}))
    made, figures, notes = correlation.make(plan, runs)
    rows = {row[0]: row for row in made[0].rows}
    assert rows["whole"][1].startswith("1.00") and rows["training for 20 steps"][1].startswith("0.40")
    assert [row[0] for row in made[2].rows] == whole and len(figures) == 1
    assert any("1 schemes are left out" in note for note in notes) and any("diverged" in note for note in notes)
