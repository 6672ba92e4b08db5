"""Schemes side by side: order, intervals and answer by hand, from runs that were made up."""

import json
import math

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lpt.report.languages import latex, markdown
from lpt.reproductions.plan import Plan, Run
from lpt.reproductions.schemes import side_by_side
from lpt.runs.messages import CONF

VALUES = {"FP32": [0.90, 0.91, 0.92], "nvfp4": [0.88, 0.90, 0.89], "tetrajet": [0.80, 0.81, 0.82],
          "quartet": [0.885, 0.88, 0.90]}  # fmt: skip


@pytest.fixture
def made(tmp_path):
    plan = Plan.read("schemes_4bit", "smoke", only={"models": ["ResNet-8"], "arms": [*VALUES]})
    plan.seeds = 3
    runs, configs = [], {}
    for run in plan.runs(tmp_path):
        arm, seed = run.label["arm"], run.seed
        run.folder.mkdir(parents=True)
        summary = {"status": "finished", "seed": seed, "val/accuracy": VALUES[arm][seed], "steps": 100,
                   "wall_seconds": 5.0, "angle/flow": 20.0 + seed}  # fmt: skip
        (run.folder / "summary.json").write_text(json.dumps(summary))
        configs[arm] = configs.get(arm) or composed(run)
        (run.folder / "config.yaml").write_text(configs[arm].replace("seed: 0", f"seed: {seed}", 1))
        runs.append(run)
    return side_by_side(plan, runs)


def composed(run: Run) -> str:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_yaml(compose("config", list(run.overrides)))


def test_order_intervals_and_answer(made):
    found, figures, notes = made
    ranked, rounded, *_ = found
    order = [[1, "nvfp4", 3], [2, "quartet", 3], [3, "tetrajet", 3], ["-", "FP32", 3]]
    assert [row[:3] for row in ranked.rows] == order
    differences = [100 * (a - b) for a, b in zip(VALUES["tetrajet"], VALUES["nvfp4"], strict=True)]
    mean = sum(differences) / 3
    sd = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2)
    half = 4.302652729911275 * sd / math.sqrt(3)  # Student's t for 2 degrees of freedom
    assert str(ranked.rows[2][5]) == f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]" and ranked.rows[0][5] == ""
    assert str(ranked.rows[0][4]).startswith("-2.00 [") and ranked.rows[0][6] == 21.0 and ranked.rows[0][8] == 50.0
    (answer,) = [note for note in notes if note.startswith("ResNet-8: first of 3 is nvfp4 (89.00 ± 1.00)")]
    assert "not told apart from it: quartet;" in answer and "worse beyond the interval: tetrajet" in answer
    assert figures and all(markdown(table) and latex(table) for table in found)
    row = next(row for row in rounded.rows if row[0] == "nvfp4")
    assert row[1] == "nvfp4" and row[3] == "nvfp4 stochastic" and "H16 given fit" in row[6]
    assert row[7] == "4.5 4.031 4.5 4.031 4.5 4.5" and row[8] == "e4m3 amax" and row[9:11] == ["-", "-"]


def test_recipes_that_there_are():
    plan = Plan.read("schemes_4bit", "smoke")
    text = yaml.safe_load((CONF / "reproduce" / "schemes_4bit.yaml").read_text())["recipes"]
    absent = [name for name in text if name not in plan.arms]
    assert all(any(note.startswith(f"{name} is left out") for note in plan.notes) for name in absent)
    assert plan.arms["quartet"] == "recipe=quartet" and len(plan.arms) >= 13
