"""A run killed at any moment and continued is bit-identical to one that was never killed."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from running import Forker, checkpoint, differences, metrics, run_folder, summary, train

# Everything that has a state: tracked scales, stochastic rounding everywhere, accumulation, augmentation, masters and
# momentum in 16 bits, windows longer than the distance of checkpoints, probes, traces, remedies.
HARD = (
    "model.width=8", "data.train_limit=150", "data.crop_padding=1", "trainer.batch_size=16", "trainer.epochs=3",
    "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1.0", "trainer.checkpoint_every=2",
    "trainer.log_every=3", "trainer.accelerator=cpu", "format.rounding=stochastic", "weights=log4_sr",
    "weights.momentum=fp169", "weights.master=fp169", "weights.scaling=tracked", "indicators.angles.every=4",
    "indicators.angles.batch_size=8", "indicators.traces.histograms=4", "logger.mode=disabled", "progress=false",
    "remedy=dampening", "remedy.after=0.1", "+indicators.anew._target_=lpt.callbacks.oscillation.NormalizationAnew",
    "+indicators.oscillation={_target_: lpt.callbacks.oscillation.Oscillation, every: 5, track: 3, batch_size: 8}",
)  # fmt: skip
ADAMW = (
    "optimizer=adamw",
    "scheduler=onecycle",
    "weights=int4_hyst",
    "weights.scaling=current",
    "trainer.max_steps=31",
    "remedy=oscireset",
    "remedy.every=4",
    "remedy.track=3",
)


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    forker = Forker()
    yield forker
    forker.close()


def same_results(one: Path, other: Path) -> None:
    assert differences(checkpoint(one), checkpoint(other)) == []
    assert differences(checkpoint(one, "best"), checkpoint(other, "best")) == []
    assert differences(metrics(one), metrics(other)) == []
    ignore = ("wall_seconds", "wandb_id", "git_commit")
    assert differences(summary(one), summary(other), ignore=ignore) == [], summary(other).get("mended")
    with np.load(run_folder(one) / "traces.npz") as a, np.load(run_folder(other) / "traces.npz") as b:
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key])


def at_checkpoint(folder: Path) -> bool:
    return any(folder.glob("*/checkpoints/*.tmp"))


def mid_epoch(folder: Path) -> bool:
    return any(folder.glob("*/checkpoints/last.ckpt"))


def before_checkpoint(folder: Path) -> bool:
    return any(folder.glob("*/metrics.csv"))


def wait_for(moment: Callable[[Path], bool], folder: Path, pid: int) -> None:
    """Until `moment` has come, or the process has ended (a zombie until it is waited for), or a minute is over."""
    end = time.monotonic() + 60
    while not moment(folder) and time.monotonic() < end:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            return
        time.sleep(0.001)


LONG = ("trainer.epochs=8",)  # so that no machine is done before it is killed


@pytest.mark.parametrize("settings", [HARD + LONG, HARD + LONG + ADAMW], ids=["sgd", "adamw"])
def test_killed_at_random_moments(forker: Forker, tmp_path: Path, settings: tuple[str, ...]) -> None:
    whole, killed, log = tmp_path / "whole", tmp_path / "killed", tmp_path / "log"
    pid = forker.start(*settings, f"paths.outputs={whole}", log=log)
    assert forker.wait(pid) == 0, log.read_text()
    chance = random.Random(len(settings))
    kills = 0
    for moment in (before_checkpoint, at_checkpoint, mid_epoch, at_checkpoint, mid_epoch):
        pid = forker.start(*settings, f"paths.outputs={killed}", "resume=true", log=log)
        wait_for(moment, killed, pid)
        time.sleep(chance.random() * 0.2 if moment is mid_epoch else 0)
        os.kill(pid, signal.SIGKILL)
        kills += forker.wait(pid) == -signal.SIGKILL
    assert kills >= 3
    pid = forker.start(*settings, f"paths.outputs={killed}", "resume=true", log=log)
    assert forker.wait(pid) == 0, log.read_text()
    same_results(whole, killed)


def test_stopped_by_sigterm_exits_75_and_continues(forker: Forker, tmp_path: Path) -> None:
    whole, stopped, log = tmp_path / "whole", tmp_path / "stopped", tmp_path / "log"
    pid = forker.start(*HARD, f"paths.outputs={whole}", log=log)
    assert forker.wait(pid) == 0, log.read_text()
    pid = forker.start(*HARD, f"paths.outputs={stopped}", log=log)
    wait_for(mid_epoch, stopped, pid)
    os.kill(pid, signal.SIGTERM)
    assert forker.wait(pid) == 75, log.read_text()
    assert summary(stopped)["status"] == "stopped"
    pid = forker.start(*HARD, f"paths.outputs={stopped}", "resume=true", log=log)
    assert forker.wait(pid) == 0, log.read_text()
    same_results(whole, stopped)


def test_a_second_process_is_turned_away(forker: Forker, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pid = forker.start(*HARD, f"paths.outputs={tmp_path}", log=tmp_path / "log")
    wait_for(before_checkpoint, tmp_path, pid)
    os.kill(pid, signal.SIGSTOP)
    log = tmp_path / "log2"
    other = forker.start(*HARD, f"paths.outputs={tmp_path}", "resume=true", log=log)
    assert forker.wait(other) == 2
    assert "another process is at work" in log.read_text()
    os.kill(pid, signal.SIGKILL)
    forker.wait(pid)


def test_finished_run_is_not_overwritten(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path) == 0
    before = checkpoint(tmp_path)
    capfd.readouterr()
    assert train(tmp_path) == 0
    said = capfd.readouterr()
    assert "accuracy" in said.out and all(word in said.err for word in ("nothing was trained", "seed=", "variant="))
    assert differences(before, checkpoint(tmp_path)) == []
    assert train(tmp_path, "resume=true") == 0
    assert "accuracy" in capfd.readouterr().out
    assert differences(before, checkpoint(tmp_path)) == []
