"""`python train.py`: what it leaves, how it is told off, how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from running import ROOT, TINY, checkpoint, differences, main, metrics, run_folder, summary, train
from spies import Watch

KEYS = {
    "status", "val/loss", "val/accuracy", "train/loss", "flip_frequency", "flip_frequency/level", "angle/flow",
    "angle/gradient", "saturation", "underflow", "epochs", "steps", "seed", "format", "weights", "model", "data",
    "git_commit", "versions", "hardware", "wall_seconds",
}  # fmt: skip
PROBED = ("indicators=default", "indicators.angles.every=4", "indicators.angles.batch_size=16")


def test_a_run_leaves_everything(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path, *PROBED, "progress=true") == 0
    folder = run_folder(tmp_path)
    assert folder.name.startswith("resnet8-digits-fp134-log4_hyst-seed0-")
    left = {path.name for path in folder.iterdir()} - {".lock"}
    assert left == {
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "checkpoints",
        "traces.npz",
        "traces.png",
        "curves.png",
    }
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    assert {path.name for path in tmp_path.iterdir()} == {folder.name}, "no clutter beside the run"
    found = summary(tmp_path)
    assert found.keys() >= KEYS
    assert all(not isinstance(value, dict) for value in found.values()), "flat keys"
    assert (found["status"], found["steps"], found["epochs"]) == ("finished", 12, 2)
    assert 0 <= found["flip_frequency"] <= 1 and 0 < found["angle/flow"] < 90
    out, err = capfd.readouterr()
    assert f"{folder}/ (config.yaml, metrics.csv, summary.json, checkpoints/)" in out, "no wandb/, since there is none"
    assert "accuracy" in out and "mean angle" in out and str(folder) in out
    assert "loss=" in err and "accuracy=" in err and "flips=" in err
    for noise in ("Warning", "warn", "GPU available", "litlogger", "Tip", "num_workers"):
        assert noise not in out + err


def test_metrics_have_a_row_for_each_window(tmp_path: Path) -> None:
    assert train(tmp_path, "trainer.log_every=5") == 0
    rows = metrics(tmp_path)
    assert [int(row["step"]) for row in rows] == [5, 6, 10, 12]
    assert [bool(row["val/loss"]) for row in rows] == [False, True, False, True]
    assert [bool(row["train/loss"]) for row in rows] == [True, False, True, True], "the last window ends with the run"
    assert list(rows[0])[:2] == ["step", "epoch"] and list(rows[0])[-1] == "seconds"
    assert summary(tmp_path)["val/accuracy"] == float(rows[-1]["val/accuracy"])


def test_equal_seeds_give_equal_runs_and_other_seeds_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert train(tmp_path / name, f"seed={seed}", "format.rounding=stochastic") == 0
    assert differences(checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b")) == []
    weights = [checkpoint(tmp_path / name)["state_dict"]["model.fc.weight"] for name in "ac"]
    assert not torch.equal(*weights)


def test_what_names_the_folder(tmp_path: Path) -> None:
    def name(*overrides: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        assert train(folder, "trainer.max_steps=1", *overrides) == 0
        return run_folder(folder).name

    first = name()
    assert name("resume=true", "logger.tags=[a]", "progress=true") == first
    assert name("optimizer.lr=0.01") != first
    assert name("format.error=fp152").startswith("resnet8-digits-fp134_fp152_fp134-log4_hyst-seed0-")
    custom = name(
        "format=custom", "format.value=[3,2,1]", "weights=custom", "weights.scheme=nearest", "weights.format=int3"
    )
    assert custom.startswith("resnet8-digits-3_2_1-nearest_int3-seed0-")


def test_steps_take_the_place_of_epochs_and_validation_comes_last(tmp_path: Path) -> None:
    assert train(tmp_path, "trainer.max_steps=8", "scheduler=onecycle", "optimizer=adam") == 0
    found = summary(tmp_path)
    assert found["steps"] == 8 and metrics(tmp_path)[-1]["val/loss"] and float(metrics(tmp_path)[-1]["lr"]) == 0
    before = checkpoint(tmp_path)
    # As if it had been killed between its last checkpoint and its summary.
    path = run_folder(tmp_path) / "summary.json"
    path.write_text(path.read_text().replace("finished", "running"))
    assert train(tmp_path, "trainer.max_steps=8", "scheduler=onecycle", "optimizer=adam", "resume=true") == 0
    assert summary(tmp_path)["status"] == "finished"
    assert differences(before, checkpoint(tmp_path)) == []


def test_weights_are_on_their_grid_and_masters_beside_them(tmp_path: Path) -> None:
    assert train(tmp_path, "trainer.gradient_clip_val=0.5", "trainer.accumulate_grad_batches=3") == 0
    saved = checkpoint(tmp_path)
    (held,) = [state["weights"] for key, state in saved["callbacks"].items() if key.startswith("Quantization")]
    assert summary(tmp_path)["steps"] == 4
    for name, master in held["masters"].items():
        weight = saved["state_dict"][f"model.{name}"]
        mantissa = torch.frexp(weight[weight != 0])[0].abs()
        assert bool((mantissa == 0.5).all()), "zero and powers of two"
        assert not torch.equal(weight, master)


@pytest.mark.parametrize("weights", ["fp32", "int8_sr", "fp134_hyst"])
@pytest.mark.parametrize("format", ["fp32", "posit8_1", "int8"])
def test_formats_and_schemes_run(tmp_path: Path, format: str, weights: str) -> None:
    assert train(tmp_path, f"format={format}", f"weights={weights}", "trainer.max_steps=2", *PROBED) == 0
    assert summary(tmp_path)["format"] == format and summary(tmp_path)["weights"] == weights


def test_bf16_and_packed_memory_train(tmp_path: Path) -> None:
    assert train(tmp_path, "precision=bf16", "memory=packed", "trainer.max_steps=2", *PROBED) == 0
    assert summary(tmp_path)["status"] == "finished"


# -- fine-tuning -----------------------------------------------------------------------------------------------------


def test_init_from_a_run_starts_from_its_masters(tmp_path: Path) -> None:
    assert train(tmp_path / "first", "weights=fp32") == 0
    start = (
        "optimizer.lr=0.0",
        "optimizer.weight_decay=0.0",
        "trainer.max_steps=1",
        f"init_from={run_folder(tmp_path / 'first')}",
    )
    assert train(tmp_path / "second", *start) == 0
    trained = checkpoint(tmp_path / "first", "best")["state_dict"]
    (held,) = [s for key, s in checkpoint(tmp_path / "second")["callbacks"].items() if key.startswith("Quantization")]
    for name, master in held["weights"]["masters"].items():
        assert torch.equal(master, trained[f"model.{name}"])


def test_init_from_other_models_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "first", "trainer.max_steps=1") == 0
    assert train(tmp_path / "second", "model.width=12", f"init_from={run_folder(tmp_path / 'first')}") == 2
    assert "another model" in capfd.readouterr().err


# -- mistakes --------------------------------------------------------------------------------------------------------

MISTAKES = {
    "format=fp135x": ["format=fp135x", "Did you mean", "fp134"],
    "weights=log5": ["weights=log5", "log4", "custom"],
    "model=resnet9": ["resnet9", "resnet8"],
    "data=digitz": ["Did you mean data=digits?"],
    "trainer.epoch=3": ["Did you mean trainer.epochs?"],
    "model=gpt model.contxt=3": ["Did you mean model.context?", "model.heads"],
    "sed=1": ["Did you mean seed?"],
    "weights=custom weights.scheme=nearest weights.format=int1": ["int1", "int2..int8"],
    "weights=custom weights.scheme=round weights.format=int3": ["round", "hysteresis"],
    "format=custom": ["format.value must be given"],
    "format=custom format.value=[0,3]": ["0 is not a number of valid bits"],
    f"format=custom format.value=[{','.join('2' * 200)}]": ["float32's range"],
    "format.scaling=loose": ["loose", "tracked"],
    "precision=16-mixed": ["16-mixed", "bf16"],
    "memory=small": ["small", "packed"],
    "memory=packed compile=true": ["compile=rounding"],
    "trainer.epochs=0": ["trainer.epochs=0"],
    "trainer.batch_size=many": ["many"],
    "trainer.batch_size=5000": ["96 training examples", "batch"],
    "trainer.gradient_clip_val=-1": ["gradient_clip_val"],
    "trainer.devices=2 -m seed=0,1": ["several devices"],
    "data=npz data.path=/nowhere": ["/nowhere", "train.npz"],
    "optimizer.lr=-1": ["learning rate"],
    "optimizer.lr=nan": ["optimizer.lr=nan", "finite number"],
    "optimizer.weight_decay=abc": ["optimizer.weight_decay='abc'"],
    "scheduler=step scheduler.milestones=3": ["milestones=3", "list"],
    "format.rules=[fc]": ["'fc' is not a mapping"],
    "format.room_error=-5": ["room_error=-5"],
    "paths.outputs=/dev/null/x": ["paths.outputs", "/dev/null/x"],
    "+optimizer.speed=3": ["speed"],
    "scheduler=step scheduler.milestones=[2,1]": ["milestones"],
    "init_from=/nowhere": ["/nowhere", "run"],
    "format.rules=[{pattern:'zzz*',error:fp152}]": ["zzz", "conv"],
    "weights.skip=['nothing*']": ["nothing*", "conv"],
    "weights=log4 weights.width=0.5": ["width"],
    "logger=csv": ["logger.mode: there is no such key. Valid here: logger.also ("],  # running.train gives a mode
    "logger.mode=sideways": ["sideways", "offline"],
    "resume=perhaps": ["resume='perhaps'", "true or false"],
    "seed=-1": ["seed=-1"],
    "seed=99999999999999999999": ["too large", "9223372036854775807"],
    "+foo=1": ["foo", "nothing reads this key", "optimizer"],
    "weights.skip=fc": ["skip='fc'", "['fc']"],
    "indicators.flips.every=0": ["every=0"],
    "format": ["format"],
}


@pytest.mark.parametrize("mistake", MISTAKES, ids=[m[:40] for m in MISTAKES])
def test_mistakes_exit_with_2_before_anything_is_written(
    mistake: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "outputs", *mistake.split(" ")) == 2
    out, err = capfd.readouterr()
    for word in MISTAKES[mistake]:
        assert word in err
    assert "Traceback" not in out + err
    assert not list(tmp_path.glob("outputs/*"))


def test_images_that_the_network_cannot_take_are_told_before_anything_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny = [setting for setting in TINY if not setting.startswith("model.")]
    assert main("model=timm", "model.name=vit_tiny_patch16_224", *tiny, f"paths.outputs={tmp_path / 'out'}") == 2
    err = capfd.readouterr().err
    assert all(text in err for text in ("8x8 pixels", "model (224)", "data.size=")) and "Proxy" not in err
    assert not (tmp_path / "out").exists()


def test_labels_outside_the_classes_and_corrupt_files_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.npz").write_bytes(b"PK\x03\x04 not really")
    (tmp_path / "val.npz").write_bytes(b"")
    assert train(tmp_path / "outputs", "data=npz", f"data.path={tmp_path}") == 2
    assert "train.npz" in capfd.readouterr().err


# -- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["loss", "master"])
def test_what_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    poison = ("+indicators.spy._target_=spies.Poison", "+indicators.spy.step=5", f"+indicators.spy.what={what}")
    assert train(tmp_path, *poison, "trainer.checkpoint_every=1", "trainer.log_every=4") == 1
    assert summary(tmp_path)["status"] == "diverged"
    saved = checkpoint(tmp_path)
    assert saved["global_step"] == 4
    assert all(bool(value.isfinite().all()) for value in saved["state_dict"].values())
    assert "last good checkpoint" in capfd.readouterr().err


def test_a_failure_of_ours_exits_with_1_and_says_where(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    poison = ("+indicators.spy._target_=spies.Poison", "+indicators.spy.step=2", "+indicators.spy.what=us")
    assert train(tmp_path, *poison) == 1
    assert summary(tmp_path)["status"] == "failed"
    assert "Traceback" in capfd.readouterr().err


# -- sweeps ----------------------------------------------------------------------------------------------------------


def test_a_failing_job_does_not_end_the_sweep(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = ("-m", "format=fp134,fp99,fp32", "seed=0,-1", "trainer.max_steps=1")
    assert train(tmp_path, *jobs) == 2
    names = sorted(path.name.rpartition("-")[0] for path in tmp_path.iterdir())
    assert names == [f"resnet8-digits-{name}-log4_hyst-seed0" for name in ("fp134", "fp32")]
    err = capfd.readouterr().err
    assert "fp99" in err and "seed=-1" in err and "4 of 6 jobs failed" in err


def test_a_sweep_that_works_exits_with_0(tmp_path: Path) -> None:
    assert train(tmp_path, "-m", "weights=log4,int4", "trainer.max_steps=1") == 0
    assert len(list(tmp_path.iterdir())) == 2


# -- Weights & Biases ------------------------------------------------------------------------------------------------


def test_wandb_is_filled_in_and_a_continued_run_keeps_its_id(tmp_path: Path) -> None:
    online = ("logger.mode=offline", "logger.group=g", "logger.tags=[one,two]", "+indicators.spy._target_=spies.Watch")
    assert train(tmp_path, *online, *PROBED) == 0
    assert Watch.wandb["group"] == "g" and tuple(Watch.wandb["tags"]) == ("one", "two")
    assert Watch.wandb["config"]["format"]["activation"] == "fp134"
    assert Watch.wandb["id"] == summary(tmp_path)["wandb_id"]
    assert list(run_folder(tmp_path).glob("wandb/offline-run-*/*.wandb"))
    path = run_folder(tmp_path) / "summary.json"
    path.write_text(path.read_text().replace("finished", "running"))
    Watch.wandb = {}
    assert train(tmp_path, *online, *PROBED, "resume=true") == 0
    assert Watch.wandb["id"] == summary(tmp_path)["wandb_id"]


# -- the command itself ----------------------------------------------------------------------------------------------


def test_the_command_runs_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), *TINY, "trainer.max_steps=1"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    result = subprocess.run([*command, "format=fp1"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and "Did you mean" in result.stderr


@pytest.mark.parametrize("command", ["train.py", *(f"scripts/{n}.py" for n in ("compare", "kernels", "reproduce"))])
def test_help_that_nobody_reads_to_its_end_is_no_error(command: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as unread:
        done = subprocess.run(
            [sys.executable, str(ROOT / command), "--help"], stdout=unread, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_help_of_the_flags_is_hydras(capfd: pytest.CaptureFixture[str]) -> None:
    assert main("--help") == 0
    assert "python train.py" in capfd.readouterr().out


# -- what is told ----------------------------------------------------------------------------------------------------


def test_a_line_an_epoch_tells_of_that_epoch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Windows longer than an epoch, and a run that ends before the first of them."""
    more = ("progress=true", "trainer.log_every=100", "trainer.epochs=3", "weights=fp32", "format=fp32")
    assert train(tmp_path, *more) == 0
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("epoch ")]
    told = [dict(part.split("=") for part in line.partition(": ")[2].split()) for line in lines]
    assert len(told) == 3 and all("flips" not in line for line in told)
    assert len({line["loss"] for line in told}) == 3 and all("val/accuracy" in line for line in told)


def test_the_data_leave_a_mark_in_the_summary(tmp_path: Path) -> None:
    def mark(name: str, pixel: int) -> str:
        (tmp_path / name / "data").mkdir(parents=True)
        images = np.arange(40 * 8 * 8, dtype=np.uint8).reshape(40, 8, 8)
        images[0, 0, 0] = pixel
        for part in ("train", "val"):
            np.savez(tmp_path / name / "data" / f"{part}.npz", images=images, labels=np.arange(40) % 2)
        more = ("data=npz", f"data.path={tmp_path / name / 'data'}", "trainer.max_steps=1", "data.train_limit=null")
        assert train(tmp_path / name / "out", *more) == 0
        return str(summary(tmp_path / name / "out")["data_hash"])

    assert mark("a", 3) == mark("b", 3) != mark("c", 4)
