"""scripts/compare.py and scripts/runs.py: groups, labels, differences by hand, what is refused, what is written."""

import csv
import json
import math
import pickle
import runpy
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from running import ROOT
from scipy import stats

from lpt.errors import UserError
from lpt.report.grouping import find, grouped, where
from lpt.report.runs import read
from lpt.report.tables import difference
from lpt.runs.outcome import Score, score

compare = runpy.run_path(str(ROOT / "scripts" / "compare.py"))["main"]
runs = runpy.run_path(str(ROOT / "scripts" / "runs.py"))["main"]


def run(folder: Path, seed: int, value: float, metric="val/accuracy", status="finished", **config) -> Path:
    """A made-up run; `config` are settings, a dot written as two underscores."""
    folder.mkdir(parents=True)
    whole = {"seed": seed, "init_from": None, "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9},
             "weights": {"format": "log4", "scheme": "nearest", "seed": "${seed}"},
             "data": {"name": "d", "download": False}, "model": {"depth": 8},
             "trainer": {"epochs": 2}, "logger": {"tags": [seed]}}  # fmt: skip
    names = {"model": "resnet8", "data": "digits", "format": "fp134", "weights": "log4"}
    for key, entry in config.items():
        if key in names:
            names[key] = entry
            whole[key] |= {"format": entry, "scheme": f"of {entry}"} if key == "weights" else {"name": entry}
            continue
        node = whole
        *parents, last = key.split("__")
        for part in parents:
            node = node[part]
        node[last] = entry
    (folder / "config.yaml").write_text(yaml.safe_dump(whole))
    summary = {
        **names,
        "seed": seed,
        "status": status,
        metric: value,
        "steps": 2,
        "train_examples": 1442,
        "val_examples": 355,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.csv").write_text(f"step,{metric},train/loss,flip_frequency\n1,,2.0,0.5\n2,{value},1.0,0.25\n")
    return folder


def test_three_learning_rates_are_no_seeds(tmp_path, capsys):
    for lr, values in ((0.05, (0.9, 0.8)), (0.1, (0.94, 0.9)), (0.2, (0.2, 0.3))):
        for seed, value in enumerate(values):
            run(tmp_path / f"lr{lr}-{seed}", seed, value, optimizer__lr=lr)
    assert compare([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "resnet8 on digits (1,442 examples for training, 355 for validation), 2 steps; 2 seeds" in out
    assert "difference to optimizer.lr=0.05 [95 %]" in out
    (folder,) = tmp_path.glob("compare-*")
    rows = list(csv.DictReader((folder / "compare.csv").read_text().splitlines()))
    assert [row["optimizer.lr"] for row in rows] == ["0.05", "0.1", "0.2"]
    assert float(rows[0]["validation accuracy (%) mean"]) == pytest.approx(85)
    assert float(rows[0]["validation accuracy (%) SD"]) == pytest.approx(statistics.stdev((90, 80)))
    # differences 4 and 10: mean 7, t(0.975, 1) * SD / sqrt 2 = 12.706 * 3
    found = [float(rows[1][f"difference to optimizer.lr=0.05 {part}"]) for part in ("mean", "low", "high", "pairs")]
    assert found == pytest.approx([7, 7 - 38.119, 7 + 38.119, 2], abs=1e-3)
    tex = (folder / "compare.tex").read_text()
    assert r"\toprule" in tex and r"\caption{Validation accuracy by optimizer.lr. resnet8 on digits (1,442" in tex
    for name in ("compare.md", "curves.png", "curves.svg", "index.html", "result.json"):
        assert (folder / name).stat().st_size > 100, name
    assert compare([str(tmp_path)]) == 0 and len(list(tmp_path.glob("compare-*"))) == 1


def test_a_choice_stands_for_all_that_it_decides(tmp_path):
    places = [
        run(tmp_path / f"{w}{m}", 0, 0.5, weights=w, optimizer__momentum=m) for w in ("log4", "int4") for m in (0, 0.9)
    ]
    groups = grouped([read(place) for place in places])
    assert [group.labels for group in groups] == [
        {"weights": w, "optimizer.momentum": m} for w in ("log4", "int4") for m in ("0", "0.9")
    ]
    assert groups[1].name == "log4, momentum=0.9"


def test_what_is_compared_is_paired_within_equal_settings(tmp_path, capsys):
    for weights in ("log4", "fp32"):
        for lr in (0.1, 0.2):
            for seed in (0, 1):
                value = 0.5 + 0.1 * (weights == "fp32") + lr + 0.01 * seed
                run(tmp_path / f"{weights}{lr}{seed}", seed, value, weights=weights, optimizer__lr=lr)
    assert compare([f"{tmp_path}/*", "by=weights", f"out={tmp_path}/o"]) == 0
    rows = list(csv.DictReader((tmp_path / "o" / "compare.csv").read_text().splitlines()))
    assert [row["difference to fp32 mean"] for row in rows if row["weights"] == "fp32"] == ["", ""]
    assert [float(r["difference to fp32 mean"]) for r in rows if r["weights"] == "log4"] == pytest.approx([-10, -10])
    capsys.readouterr()
    assert compare([str(tmp_path), "by=width"]) == 2
    assert "the runs do not differ in it; they differ in weights, optimizer.lr" in capsys.readouterr().err
    assert compare([str(tmp_path), "by=lr", "baseline=7"]) == 2 and "give one of 0.1, 0.2" in capsys.readouterr().err
    assert compare([str(tmp_path), "metric=val/f1"]) == 2 and "no finished run has it" in capsys.readouterr().err


def test_unlike_runs_and_the_same_run_twice_are_refused(tmp_path, capsys):
    first, longer = run(tmp_path / "a", 0, 0.5), run(tmp_path / "b", 0, 0.6, trainer__epochs=9)
    assert compare([str(first), str(longer)]) == 2
    assert "cannot be compared: trainer.epochs is 2 and 9" in capsys.readouterr().err
    assert compare([str(first), str(longer), "by=epochs"]) == 0
    twin = run(tmp_path / "c", 0, 0.7)
    with pytest.raises(UserError, match="are the same run twice"):
        grouped([read(first), read(twin)])
    with pytest.raises(UserError, match="no run is there"):
        find([str(tmp_path / "nothing*")])


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        ("val/perplexity", "validation perplexity, lower is better"),
        ("val/bleu", "BLEU"),
        ("val/map50", "average precision"),
    ],
)
def test_the_task_s_own_metric(metric, shown, tmp_path, capsys):
    run(tmp_path / "a", 0, 0.25, metric)
    run(tmp_path / "b", 0, 0.5, metric, optimizer__lr=0.2)
    assert compare([str(tmp_path)]) == 0
    assert shown in capsys.readouterr().out


def test_runs_are_listed_with_what_differs(tmp_path, capsys):
    for lr in (0.1, 0.2):
        run(tmp_path / f"lr{lr}", 0, lr, optimizer__lr=lr)
    run(tmp_path / "broken", 1, 0.9, optimizer__lr=0.2, status="failed")
    assert runs([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["optimizer.lr", "seed", "status", "validation", "accuracy", "(%)", "folder"]
    assert len(lines) == 6 and lines[-1] == "3 runs"
    assert runs([str(tmp_path), "where", "optimizer.lr=0.2", "status=finished"]) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path}/lr0.2\n1 of 3 runs\n")
    assert runs([str(tmp_path), "learning=1"]) == 2 and "has the key learning" in capsys.readouterr().err
    every = [read(place) for place in find([str(tmp_path)])]
    assert [len(where(every, [c])) for c in ("lr<0.2", "lr>=0.1", "val/accuracy!=0.1", "weights=log4")] == [1, 3, 2, 3]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(-50, 50).map(lambda v: round(v, 3))] * 2), min_size=2, max_size=8))
def test_intervals_are_those_of_a_paired_t_test(pairs):
    a, b = ({seed: pair[i] for seed, pair in enumerate(pairs)} for i in (0, 1))
    found = difference(a, b)
    each = [x - y for x, y in pairs]
    if found.low is None:
        assert len(set(each)) == 1 or statistics.pstdev(each) < 1e-9
    elif statistics.stdev(each) > 1e-6:
        low, high = stats.ttest_rel(list(a.values()), list(b.values())).confidence_interval(0.95)
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


def test_reading_runs_loads_no_torch():
    code = "import sys, lpt.runs.comparing; sys.exit(', '.join({'torch', 'hydra', 'wandb'} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_a_job_s_score_comes_back_from_other_processes():
    one = score({"val/accuracy": 0.5, "best/val/accuracy": 0.75, "folder": "outputs/x"})
    back = pickle.loads(pickle.dumps(one))
    assert isinstance(back, Score) and (back, back.folder) == (0.75, Path("outputs/x"))
    assert math.isnan(score({"folder": "f"})) and score("ranking") == 0


def test_recipes_are_compared_by_their_names(tmp_path, capsys):
    """All that a recipe sets is in the configurations; what the user changed beside it is still told."""
    for name, recipe, changes in (
        ("a", "one", {"products": {"x": "int4", "w": "int4"}, "optimizer__lr": 0.1}),
        ("b", "two", {"products": {"w": "int8", "e": "int8"}, "optimizer__lr": 0.2}),
        ("c", None, {"products": {}, "optimizer__lr": 0.1}),
    ):
        for seed in (0, 1):
            folder = run(tmp_path / f"{name}{seed}", seed, 0.5, weights="fp32", **changes)
            file = folder / "summary.json"
            names = {"format": "fp32", **({"recipe": recipe} if recipe else {})}
            file.write_text(json.dumps(json.loads(file.read_text()) | names))
    assert compare([str(tmp_path), "by=recipe", "lr=0.1"]) == 0
    out = capsys.readouterr().out
    assert "Validation accuracy by recipe\n" in out and "difference to fp32 [95 %]" in out and "products" not in out
    assert compare([str(tmp_path)]) == 0
    assert "by recipe, optimizer.lr" in capsys.readouterr().out


def test_parts_that_are_there_or_not_are_one_column(tmp_path: Path) -> None:
    """Indicators, of which each has a class and keys of its own."""
    flips = {"_target_": "lpt.callbacks.flips.Flips", "every": 20, "per_layer": True}
    run(tmp_path / "a", 0, 0.5, indicators=None, variant=None)
    run(tmp_path / "b", 0, 0.6, indicators={"flips": flips, "angles": {"_target_": "x.Angles", "every": 100}})
    run(tmp_path / "c", 0, 0.7, indicators={"flips": {**flips, "every": 5}})
    every = [read(path) for path in find([str(tmp_path)])]
    labels = [group.labels for group in grouped(every)]
    assert [one["indicators"] for one in labels] == ["none", "angles, flips", "flips"]
    assert list(labels[0]) == ["indicators"] and len(where(every, ["variant=null"])) == 1
