"""scripts/reproduce.py: plans become runs, runs become tables, and a killed sweep goes on."""

import csv
import inspect
import json
import math
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import get_object as locate
from running import ROOT
from scipy import stats

from lpt.callbacks.width import Width
from lpt.errors import UserError
from lpt.report import languages, tables
from lpt.report.runs import read
from lpt.report.sections import Table
from lpt.report.tables import Row, difference, mean_sd
from lpt.reproductions.command import Asked
from lpt.reproductions.makers import _late, fitted, where
from lpt.reproductions.plan import Plan, known, sizes_of
from lpt.reproductions.remedies import remedies
from lpt.reproductions.tuning import first, tuned

reproduce = runpy.run_path(str(ROOT / "scripts" / "reproduce.py"))["main"]
PLACES = dict.fromkeys(("cifar10", "imagenet", "ptb", "multi30k", "iwslt14", "voc", "images"), "DIR")
TINY = ["seeds=1", "model.channels=[4,4,8,8]", "data.train_limit=128", "trainer.max_steps=12", "trainer.log_every=4",
        "trainer.checkpoint_every=2", "jobs=2"]  # fmt: skip


def folder(path, seed=0, status="finished", commit="c1", config=None, **figures):
    """A run's folder, as train.py leaves it."""
    path.mkdir(parents=True)
    entries = {"status": status, "seed": seed, "git_commit": commit, "versions": "v", "hardware": "h", **figures}
    (path / "summary.json").write_text(json.dumps(entries))
    whole = {"seed": seed, "data": {"name": "digits"}, "trainer": {"max_steps": 10}, **(config or {})}
    (path / "config.yaml").write_text(yaml.safe_dump(whole))
    return read(path)


def test_settings_by_model(tmp_path):
    """The GPT has rates of its own and the same schedules, otherwise spelt; the others have none of its rates."""
    only = {"models": ["GPT", "ResNet-8"], "arms": ["hysteresis"], "weights": ["MXFP4 in MXFP4"], "steps": ["3000"]}
    plan = Plan.read("remedies", "cpu", 2, only)
    runs = plan.runs(tmp_path, places=PLACES)
    assert len(runs) == 2 * 3 * 3 * 2 * 2 and plan.count == 2 * 3 * 2 * (3 + 1)
    rates = {(run.label["model"], run.label["rate"]) for run in runs}
    assert {rate for model, rate in rates if model == "GPT"} == {"lr 0.001", "lr 0.002", "lr 0.005"}
    assert {rate for model, rate in rates if model == "ResNet-8"} == {"lr 0.03", "lr 0.1", "lr 0.3"}
    constant = {run.label["model"]: run.overrides for run in runs if run.label["schedule"] == "constant"}
    assert "scheduler=constant" in constant["ResNet-8"] and "scheduler.last=1" in constant["GPT"]


# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [(name, size) for name in known() for size in sizes_of(name)])
def test_every_plan_is_whole(name, size):
    plan = Plan.read(name, size)
    assert plan.title and plan.rebuilds and plan.claim and all(note.endswith(".") for note in plan.notes)
    arms = set(plan.arms)
    assert {plan.baseline or "", *(a for pair in plan.compare for a in pair)} <= arms | {""}
    assert all({"metric", "data", "settings"} <= set(model) for model in plan.models.values())
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for model in plan.models:  # every setting of a model, an arm and a condition composes
            of_model = [*plan.of_model(model, PLACES), *plan.settings]
            texts = [arm["settings"] if isinstance(arm, dict) else arm for arm in list(plan.arms.values())[:7]]
            for text in [*texts, *(text for key in plan.vary for text in plan.values(key, model).values())]:
                cfg = compose("config", [*of_model, *text.split()])
                for part in ("model", "data", "task", "optimizer", "scheduler"):  # whose functions take the keys given
                    keys = {key: None for key in cfg[part] if key not in ("_target_", "_partial_")}
                    inspect.signature(locate(cfg[part]._target_)).bind_partial(**keys)


def test_runs_of_a_plan(tmp_path):
    plan = Plan.read("scratch_vs_finetune", "smoke")
    runs = plan.runs(tmp_path)
    assert len(runs) == plan.count == 14 and len({run.folder for run in runs}) == 14
    assert [run.folder for run in plan.runs(tmp_path)] == [run.folder for run in runs]
    tuned = [run for run in runs if run.needs]
    assert len(tuned) == 6
    for run in tuned:
        (origin,) = [r for r in runs if r.folder == run.needs]
        assert origin.label["arm"] == "FP32" and origin.seed == run.seed
    shared = {run.folder for run in Plan.read("table_log4", "smoke").runs(tmp_path)}
    assert {r.folder for r in runs if r.label["arm"] == "FP32"} <= shared  # trained once for both


def test_searches_start_from_trained_networks(tmp_path):
    runs = Plan.read("formats_six_models", "smoke").runs(tmp_path)
    assert [run.program for run in runs] == ["config"] * 6 + ["search"] * 6
    assert [run.needs for run in runs[6:]] == [run.folder for run in runs[:6]]


def test_a_place_has_one_spelling(tmp_path, monkeypatch):
    """The folder of a run that starts from another's weights hangs on where that is."""
    monkeypatch.chdir(tmp_path)
    for inside in ("out", "./out", str(tmp_path / "out"), f"../{tmp_path.name}/out"):
        assert Asked(["size=smoke", f"outputs={inside}"]).outputs == Path("out")
    assert Asked([f"outputs={tmp_path.parent}/x"]).outputs == Asked(["outputs=../x"]).outputs == tmp_path.parent / "x"


def test_a_part_of_a_plan():
    plan = Plan.read("hysteresis_steps", "smoke", 1, {"steps": ["30"], "weights": ["log4"], "arms": ["width 0.5"]})
    assert list(plan.arms) == ["nearest", "width 0.5"] and plan.count == 4
    plan = Plan.read("scratch_vs_finetune", "smoke", 1, {"arms": ["log4 fine-tuned"]})
    assert list(plan.arms) == ["FP32", "log4 fine-tuned"] and not plan.compare


def log4_run(run, **figures):
    assert run.label["arm"] == "log4"
    folder(run.folder, run.seed, steps=5, **figures)
    (run.folder / "metrics.csv").write_text("step,flip_frequency,flip_frequency/layer/a\n5,0.02,0.03\n")


def test_tables_of_what_is_there(tmp_path, capsys):
    words = ["flips", "size=smoke", f"outputs={tmp_path}", "jobs=0"]
    runs = Plan.read("flips", "smoke").runs(tmp_path)
    log4_run(runs[1], **{"val/accuracy": 0.5, "flip_frequency": 0.01})
    assert reproduce(words) == 0
    out = capsys.readouterr().out
    assert "| ResNet-18 | log4 | 1 | 2.00e-02 |  |" in out and "| 50.00 |" in out
    assert "12 of 14 runs have not begun" in out and not (tmp_path / "logs").exists()


def test_damaged_runs_are_named(tmp_path):
    result = folder(tmp_path / "run", 0, steps=20)
    for text in ("", "step,lr\n", "step,lr\n10,0.1\n", "step,lr\n2"):  # ends before the run did
        (result.folder / "metrics.csv").write_text(text)
        with pytest.raises(UserError, match=r"metrics\.csv is missing or damaged: delete the folder"):
            result.curve("lr")
    (result.folder / "config.yaml").write_text("")
    with pytest.raises(UserError, match=r"config\.yaml is missing or damaged"):
        read(result.folder)
    (result.folder / "summary.json").write_text("{")
    assert read(result.folder).status == "missing"


def test_a_damaged_run_is_told_before_anything_starts(tmp_path, capsys):
    run = Plan.read("flips", "smoke").runs(tmp_path)[1]
    log4_run(run)
    (run.folder / "metrics.csv").write_text("step,flip_frequency\n")
    assert reproduce(["flips", "size=smoke", f"outputs={tmp_path}"]) == 2
    assert "metrics.csv is missing or damaged" in capsys.readouterr().err and not (tmp_path / "logs").exists()


def test_flips_late_in_training(tmp_path):
    rows = "".join(f"{step},{1 / step}\n" for step in range(10, 310, 10))
    result = folder(tmp_path / "a", 0, steps=300)
    (tmp_path / "a" / "metrics.csv").write_text(f"step,flip_frequency\n{rows}")
    row = Row({"arm": "a"}, "flip_frequency", [result, folder(tmp_path / "b", 1, "stopped")])
    assert _late(row, 10) == [pytest.approx((1 / 280 + 1 / 290 + 1 / 300) / 3)]
    assert _late(row, 3) == [pytest.approx(sum(1 / s for s in range(210, 310, 10)) / 10)]


def test_a_table_is_kept_and_made_again(tmp_path, capsys):
    source, kept = tmp_path / "flips-smoke", tmp_path / "kept"
    words = ["flips", "size=smoke", f"outputs={tmp_path}", "jobs=0"]
    runs = Plan.read("flips", "smoke").runs(tmp_path)
    log4_run(runs[1], **{"val/accuracy": 0.5, "flip_frequency": 0.01})
    assert reproduce(words) == 0 and reproduce(["publish", str(source), str(kept)]) == 2
    assert "has no result" in capsys.readouterr().err  # of the other seed
    log4_run(runs[8], **{"val/accuracy": 0.7, "flip_frequency": 0.02})
    assert reproduce(words) == 0 and reproduce(["publish", str(source), str(kept)]) == 0
    shutil.rmtree(tmp_path / "runs")
    (kept / "flips.md").unlink()
    moved = kept.rename(tmp_path / "moved")
    assert reproduce(["rebuild", str(moved)]) == 0
    assert (moved / "flips.md").read_text() == (source / "flips.md").read_text()
    assert "| 60.00 ± 14.14 |" in (moved / "flips.md").read_text()
    for command, said in ((["rebuild"], "takes FOLDER"), (["rebuild", str(tmp_path)], "result.json is missing"),
                          (["publish", str(moved), str(tmp_path)], "holds no table")):  # fmt: skip
        assert reproduce(command) == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(p.parent.name for p in (ROOT / "docs/results").glob("*/result.json")))
def test_our_results_are_what_their_runs_give(name, tmp_path):
    folder = ROOT / "docs/results" / name
    shutil.copytree(folder, tmp_path / "there", ignore=shutil.ignore_patterns("*.png", "*.svg", "*.md"))
    assert reproduce(["rebuild", str(tmp_path / "there")]) == 0
    for kept in sorted(folder.glob("*.md")):
        assert (tmp_path / "there" / kept.name).read_text() == kept.read_text()


def test_mistakes(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for words, said in (
        (["flips", "hydra.launcher.n_jobs=3"], "needs a launcher of Hydra's"),
        (["flips", "only.arms=INT9"], "only.arms=INT9: flips at size=smoke has values out of FP32, log4"),
        (["flips", "only.width=1"], "has one of models, arms"), (["table_8bit", "size=cpu"], "has no size=cpu"),
        (["flips", "size=huge"], "size=huge"), (["flop"], "not one of"), (["flips", "seeds=0"], "seeds=0"),
        (["lstm_uniform", "size=small"], "needs ptb=DIR"), (["flips", "launcher=x"], "launcher=x"),
        (["flips", "nonsense=1"], "nonsense"),
        (["flips", "optimizer.lr=abc", f"outputs={tmp_path}"], "a finite number"),
        (["lstm_uniform", "size=small", f"ptb={tmp_path}/no"], "is not a folder that is there"),
        (["flips", f"outputs={file}/out"], "cannot be made"), (["flips", f"sweep={file}"], "is there already"),
        (["report", f"outputs={tmp_path}/none"], "holds no table yet"),
    ):  # fmt: skip
        assert reproduce(words) == 2
        assert said in capsys.readouterr().err
    assert reproduce([]) == 2 and reproduce(["list"]) == 0
    out = capsys.readouterr().out
    assert len(known()) > 12 and all(f"\n{name}\n" in f"\n{out}" for name in known())


# -- tables ------------------------------------------------------------------------------------------------------------


def test_statistics_by_hand():
    assert mean_sd([1.0, 2.0, 6.0]) == (3.0, pytest.approx(7**0.5))
    assert mean_sd([4.0]) == (4.0, None) and mean_sd([]) == (None, None)
    # differences 1, 2, 3: mean 2, SD 1, t(0.975, 2) = 4.30265
    found = difference({0: 11.0, 1: 22.0, 2: 33.0, 9: 0.0}, {0: 10.0, 1: 20.0, 2: 30.0, 7: 1.0})
    assert (found.mean, found.count) == (2.0, 3)
    assert (found.low, found.high) == (pytest.approx(2 - 4.30265 / 3**0.5, abs=1e-4), pytest.approx(4.48414, abs=1e-4))
    assert difference({0: 1.0}, {1: 1.0}) is None
    assert str(difference({0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5})) == "+0.50"  # no spread: no interval, and no verdict


def test_a_table_of_run_folders(tmp_path):
    def row(arm, *values, **more):
        found = [folder(tmp_path / arm / str(s), s, **{"val/accuracy": v}, **more) for s, v in enumerate(values)]
        return Row({"model": "M", "arm": arm}, "val/accuracy", found)

    rows = [row("FP32", 0.5, 0.6), row("a", 0.4, 0.52), row("b", 0.3, 0.3)]
    rows[2].results.append(folder(tmp_path / "b" / "2", 2, "diverged"))
    made, notes = tables.table("T", rows, "FP32", [("a", "b")], {"M": {"a": "51"}})
    shown = [[languages.text(cell) for cell in row] for row in made.rows]
    assert shown[0] == ["M", "FP32", "val/accuracy (%)", "2", "55.00 ± 7.07", "", "", "not available"]
    # a - FP32: -10 and -8: -9 -+ 12.706 * 1.41421 / 1.41421
    assert shown[1][3:] == ["2", "46.00 ± 8.49", "-9.00 [-21.71, +3.71]", "+16.00 [-60.24, +92.24] to b", "51"]
    assert shown[2][3] == "2 of 3" and notes == ["M, b: 1 of 3 runs diverged, without a value"]
    assert languages.markdown(made).count("\n") == 5
    lines = languages.latex(Table("t", ["a_b"], [["1 ± 2"], [None]]), "Of 50 %", "x").splitlines()
    assert lines[3:5] == [r"  \caption{t. Of 50 \%.}", r"  \label{tab:x}"] and r"    a\_b \\" in lines
    assert lines[8:11] == [r"    \midrule", r"    1 $\pm$ 2 \\", r"    not available \\"]
    head, _, first, *_ = csv.reader(languages.to_csv(made).splitlines())
    found = dict(zip(head, first, strict=True))
    assert float(found["mean"]) == pytest.approx(46) and float(found["difference to FP32 low"]) == pytest.approx(
        -21.7062, abs=1e-3
    )
    assert found["difference to the other to"] == "b" and found["difference to FP32 pairs"] == "2"


def test_what_does_not_belong_together_is_not_mixed(tmp_path):
    first = folder(tmp_path / "1", 0)
    other = folder(tmp_path / "2", 1, config={"data": {"name": "cifar10"}})
    with pytest.raises(ValueError, match=r"cannot stand in one row: data\.name is 'digits' and 'cifar10'"):
        Row({"arm": "a"}, "val/loss", [first, other])
    with pytest.raises(ValueError, match="cannot be compared"):
        tables.table("T", [Row({"arm": "a"}, "val/loss", [first]), Row({"arm": "b"}, "val/loss", [other])], "a")
    rows = [folder(tmp_path / f"hash{i}", i, data_hash=text) for i, text in enumerate(("a", "a", "b"))]
    Row({"arm": "a"}, "val/loss", rows[:2])
    with pytest.raises(UserError, match="cannot stand in one row: their data were not the same"):
        Row({"arm": "a"}, "val/loss", rows)
    later = folder(tmp_path / "3", 1, commit="c2", **{"val/loss": 1.0})
    made, notes = tables.table("T", [Row({"arm": "a"}, "val/loss", [first, later])])
    assert made.rows[0][0] == "a†" and "different git_commit: c1; c2" in notes[0]


def test_where_a_difference_crosses():
    def gain(mean, half):
        return tables.Difference(mean, mean - half, mean + half, 3)

    assert where([(10, gain(-5, 1)), (100, gain(1, 2)), (1000, gain(3, 1))]) == "10 to 1,000"
    assert where([(10, gain(-5, 6)), (100, gain(5, 6))]) == "no difference beyond its interval"
    assert where([(10, gain(-5, 1)), (100, gain(-2, 1))]) == "nowhere: worse wherever it differs"


def test_a_fitted_crossing():
    """Against numbers from a confidence band evaluated step by step."""
    exact = [(s, math.log(s) - math.log(2000)) for s in (100, 1000, 10_000)]
    assert fitted(exact) == "2,000 steps [2,000, 2,000]"
    assert fitted([(s, d + 1) for s, d in exact[1:] for _ in range(2)]).endswith(", beyond the runs")
    points = [(s, d + e) for s, d in exact for e in (-0.8, 0.1, 0.7)]
    x, y = np.log([s for s, _ in points]), np.array([d for _, d in points])
    slope, cut = np.polyfit(x, y, 1)
    error = math.sqrt(((y - cut - slope * x) ** 2).sum() / 7)
    t = stats.t.ppf(0.975, 7)
    grid = np.exp(np.linspace(math.log(10), math.log(1e6), 200_001))
    band = t * error * np.sqrt(1 / 9 + (np.log(grid) - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum())
    inside = grid[np.abs(cut + slope * np.log(grid)) <= band]
    low, high = (float(n.replace(",", "")) for n in re.findall(r"\[([\d,]+), ([\d,]+)\]", fitted(points))[0])
    assert low == pytest.approx(inside[0], rel=1e-3) and high == pytest.approx(inside[-1], rel=1e-3)
    assert fitted([(100, -1.0), (100, 1.0), (1000, 1.0), (1000, -0.9)]) == "the slope may be zero"
    assert fitted([(100, -1.0), (1000, 1.0)]) is None


def test_the_width_goes_down_in_stairs():
    width = Width(1.0, 0.0, 5)
    assert [width.at(share) for share in (0, 0.19, 0.2, 0.5, 0.99, 1.0)] == [1, 1, 0.75, 0.5, 0, 0]


def test_a_width_on_the_stairs_in_compiled_training(tmp_path):
    """More widths than torch.compile takes of one function."""
    more = ["model.width=8", "data.train_limit=160", "trainer.max_steps=4", "indicators=flips", "compile=rounding",
            "format=fp32", "+indicators.width._target_=lpt.callbacks.width.Width", "+indicators.width.stairs=3",
            f"paths.outputs={tmp_path}", "logger.mode=disabled", "progress=false"]  # fmt: skip
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# -- sweeps ------------------------------------------------------------------------------------------------------------


FEW = "only.arms=FP32,log4 from scratch,log4 fine-tuned"  # the last starts from the first


def command(outputs, *more):
    words = [sys.executable, str(ROOT / "scripts" / "reproduce.py"), "scratch_vs_finetune", *TINY, FEW, *more]
    return [*words, f"outputs={outputs}"]


def result(outputs):
    (path,) = outputs.glob("scratch_vs_finetune-smoke-*/scratch_vs_finetune.csv")
    return path.read_text()


def test_a_killed_sweep_goes_on_to_the_same_table(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), check=True, capture_output=True, cwd=tmp_path)
    process = subprocess.Popen(command(killed), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=tmp_path,
                               start_new_session=True)  # fmt: skip
    runs = killed / "runs"
    while process.poll() is None and len(list(runs.glob("*/checkpoints/last.ckpt"))) < 2:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    states = [json.loads(p.read_text())["status"] for p in runs.glob("*/summary.json")]
    assert states and len(states) < 3 and not list(killed.glob("scratch*"))
    done = subprocess.run(command(killed), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert result(killed).splitlines() == result(whole).splitlines()
    assert len(list(runs.iterdir())) == 3


def test_failures_are_told_and_tried_again(tmp_path):
    outputs = tmp_path / "out"
    (outputs / "runs").mkdir(parents=True)
    plan = Plan.read("scratch_vs_finetune", "smoke", 1)
    given = [word for word in TINY if word.partition("=")[0] not in ("seeds", "jobs")]
    origin = next(run for run in plan.runs(outputs, given) if run.label["arm"] == "FP32")
    origin.folder.write_text("in the way")
    first = subprocess.run(command(outputs), capture_output=True, text=True, cwd=tmp_path)
    assert first.returncode == 1 and "2 runs failed; the same command tries them again" in first.stderr
    assert first.stderr.count("not started: the run whose weights it needs failed") == 1
    assert "0 of 1" in result(outputs)
    origin.folder.unlink()
    again = subprocess.run(command(outputs), capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0 and "1 of 3 runs are done already" in again.stderr
    assert "0 of 1" not in result(outputs)


def test_a_sweep_file_and_one_of_its_runs(tmp_path, monkeypatch):
    file = tmp_path / "sweep.yaml"
    given = ["scratch_vs_finetune", *TINY[:-1], f"outputs={tmp_path}"]
    assert reproduce([*given, f"sweep={file}"]) == 0
    sweep = yaml.safe_load(file.read_text())
    assert sweep["parameters"]["run"]["values"] == list(range(7)) and sweep["method"] == "grid"
    assert sweep["command"][3:-1] == [*given, "logger.mode=online"] and sweep["command"][-1] == "${args_no_hyphens}"


def test_a_search_comes_before_the_comparison(tmp_path):
    """Three rates with seed 0; the other seeds with the best of them, arm by arm."""
    only = {"models": ["ResNet-8"], "arms": ["hysteresis"], "weights": ["INT4"], "schedule": ["constant"]}
    plan = Plan.read("remedies", "cpu", 3, {**only, "steps": ["3000"]})
    runs = plan.runs(tmp_path, places=PLACES)
    assert len(runs) == 2 * 3 * 3 and plan.count == 2 * (3 + 2)
    assert len(first(plan, runs)) == 6 and tuned(plan, runs) == first(plan, runs)
    best = {"nearest": "lr 0.1", "hysteresis": "lr 0.3"}
    for run in first(plan, runs):
        value = 0.5 + 0.1 * (run.label["rate"] == best[run.label["arm"]])
        folder(run.folder, 0, steps=5, **{"val/accuracy": value, "val/accuracy_anew": value, "flip_frequency": 0.1})
        (run.folder / "metrics.csv").write_text("step,flip_frequency\n5,0.1\n")
    kept = tuned(plan, runs)
    assert len(kept) == 6 + 2 * 2
    assert {(run.label["arm"], run.label["rate"]) for run in kept if run.seed} == set(best.items())
    for run in kept:
        if run.seed:
            folder(run.folder, run.seed, steps=5, **{"val/accuracy": 0.7 + run.seed / 100 * len(run.label["arm"])})
            (run.folder / "metrics.csv").write_text("step,flip_frequency\n5,0.1\n")
    made, figures, _ = remedies(plan, kept)
    assert made[0].rows == [["hysteresis", "+3.00 [-4.45, +10.45]"]]  # of 0, 3 and 6
    assert list(map(str, made[2].rows[1][:4])) == ["hysteresis lr 0.3", "3", "76.67 ± 15.28", "60.00"]
    assert made[2].rows[0][4] == pytest.approx(0.1) and figures[0].series[0].y == [pytest.approx(3.0)]
    both = Plan.read("remedies", "cpu", 3, {**only, "models": ["ResNet-8", "GPT"], "rate": ["lr 0.1"]})
    assert [*both.models] == ["ResNet-8"] and both.notes[-1] == "GPT is left out: it has none of only.rate=lr 0.1."
    only["rate"] = ["lr 0.1"]
    plan = Plan.read("remedies", "cpu", 3, only)
    assert not first(plan, plan.runs(tmp_path, places=PLACES))
