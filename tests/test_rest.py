"""How far weights rest from their masters, by hand; and the experiment that asks why hysteresis gains."""

from __future__ import annotations

import json
import math

import pytest
import torch
import yaml
from running import metrics, summary, train

import lpt
from lpt.indicators import bits_lost, rest_distance, rounding_noise
from lpt.reproductions.plan import Plan
from lpt.reproductions.why import why


def folder(path, seed, **figures):
    """A run's folder, as train.py leaves it."""
    path.mkdir(parents=True)
    entries = {"status": "finished", "seed": seed, "git_commit": "c", "versions": "v", "hardware": "h", **figures}
    (path / "summary.json").write_text(json.dumps(entries))
    whole = {"seed": seed, "data": {"name": "digits"}, "trainer": {"max_steps": 10}}
    (path / "config.yaml").write_text(yaml.safe_dump(whole))


def test_distances_by_hand():
    int4 = lpt.formats.get("int4")  # levels a quarter apart, to 1.75
    scale = torch.tensor(0)
    masters = torch.tensor([0.25, 0.3, 0.3, -0.45, 1.9])
    levels = torch.tensor([0.25, 0.25, 0.5, -0.25, 1.75])
    found = rest_distance(masters, levels, int4, scale)
    assert found.tolist() == pytest.approx([0, 0.2, 0.8, 0.8, 0])
    wanted = math.log2(math.sqrt(12 * (0.04 + 0.64 + 0.64) / 5))
    assert bits_lost([found[:2], found[2:]]).item() == pytest.approx(wanted, rel=1e-5)
    off = math.sqrt(0.05**2 + 0.2**2 + 0.2**2 + 0.15**2)
    size = math.sqrt(0.25**2 + 2 * 0.3**2 + 0.45**2 + 1.9**2)
    assert rounding_noise([masters], [levels]).item() == pytest.approx(off / size, rel=1e-5)


def test_nearest_loses_no_bits_and_hysteresis_one():
    torch.manual_seed(0)
    int4, scale = lpt.formats.get("int4"), torch.tensor(0)
    master = torch.rand(20000) * 3.4 - 1.7
    near = rest_distance(master, int4.round(master, scale=scale), int4, scale)
    assert abs(bits_lost([near]).item()) < 0.02 and near.max() <= 0.5
    low = rest_distance(master, int4.floor(master, scale=scale), int4, scale)
    assert bits_lost([low]).item() == pytest.approx(1, abs=0.02)


REST = ("indicators=remedies", "indicators.anew.batches=2", "indicators.oscillation.every=6",
        "indicators.oscillation.track=3", "+indicators.rest._target_=lpt.callbacks.rest.Rest",
        "+indicators.rest.every=6", "+indicators.rest.batches=2")  # fmt: skip


def test_a_run_whose_weights_are_at_their_nearest_levels_gives_the_same_at_nearest(tmp_path):
    assert train(tmp_path, *REST, "format=fp32", "weights=int4", "compile=false") == 0
    found = summary(tmp_path)
    assert found["val/accuracy_nearest"] == found["val/accuracy_anew"]
    assert found["val/loss_nearest"] == pytest.approx(found["val/loss_anew"], rel=1e-6)
    rows = [row for row in metrics(tmp_path) if row["rest/distance"]]
    assert [int(row["step"]) for row in rows] == [6, 12]
    assert all(0.2 < float(row["rest/distance"]) < 0.3 and float(row["rest/bits_lost"]) < 0.1 for row in rows)


def test_the_experiments_table(tmp_path):
    plan = Plan.read("why_hysteresis", "cpu", 2, {"weights": ["INT4"], "rate": ["0.1 to zero"]})
    assert Plan.read("why_hysteresis", "cpu").count == 36
    runs = plan.runs(tmp_path, places={"images": str(tmp_path)})
    values = {"nearest": (0.6, 0.6), "width 0.5": (0.58, 0.6), "hysteresis": (0.55, 0.59)}
    for run in runs:
        own, near = values[run.label["arm"]]
        seed = run.seed / 100
        folder(run.folder, run.seed, steps=5, **{"val/accuracy": own + seed, "val/accuracy_anew": own + 0.01 + seed * 2,
                                                "val/accuracy_nearest": near + seed})  # fmt: skip
        lost = {"nearest": 0.0, "width 0.5": 0.3, "hysteresis": 0.9}[run.label["arm"]]
        (run.folder / "metrics.csv").write_text(f"step,rest/bits_lost,rest/distance\n4,9,9\n5,{lost},0.25\n")
    made, figures, notes = why(plan, runs)
    rows = {row[1]: row for row in made[0].rows}
    assert rows["nearest"][4] == "" and str(rows["hysteresis"][4]).startswith("-5.00")
    assert str(rows["hysteresis"][5]).startswith("+1.50") and str(rows["hysteresis"][6]).startswith("+2.50")
    assert rows["hysteresis"][7:9] == [0.25, 0.9] and rows["hysteresis"][9] is None
    assert made[1].rows[0][:2] == ["INT4, 0.1 to zero", "nearest"]
    assert made[1].rows[0][2:] == pytest.approx([60.5, 58.5, 55.5])
    assert figures[0].series[1].x == [pytest.approx(0.9)] and figures[0].series[1].y == [pytest.approx(-5)]
    assert sum(note.startswith("Conjecture") for note in notes) == 4
