"""A machine that lacks something says so in a line, before the work where that can be foreseen."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from running import run_folder, summary, train
from torch import nn

from lpt.data.lines import bpe
from lpt.errors import UserError
from lpt.runs import limits
from lpt.runs.folder import RunFolder
from lpt.tasks.task import Task

SHORT = ("model.width=4", "trainer.epochs=1", "data.train_limit=48", "trainer.checkpoint_every=1")


def test_a_model_that_is_too_large_is_told_before_it_is_made(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for width in (20_000, 10**5, 10**9, 10**18):
        assert train(tmp_path / "o", f"model.width={width}") == 2
        said = capfd.readouterr().err
        assert "GiB" in said and "Traceback" not in said and not (tmp_path / "o").exists()


def test_memory_is_reckoned_without_taking_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "memory", lambda: 3 * 4 * 1000)
    state = torch.get_rng_state()
    limits.check_memory(lambda: nn.Linear(1000, 1, bias=False))
    with pytest.raises(UserError, match="GiB"):
        limits.check_memory(lambda: nn.Linear(1001, 1, bias=False))
    limits.check_memory(lambda: nn.Linear(int(torch.ones(1).item()), 1))  # cannot be made so: not looked at
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.undo()
    assert 2**28 < limits.memory() < 2**60


def test_memory_that_is_refused_in_training_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        torch.empty(2**60)

    monkeypatch.setattr(Task, "train_loss", refuse)
    assert train(tmp_path, *SHORT) == 1
    said = capfd.readouterr().err
    assert "does not give the memory" in said and "Traceback" not in said and summary(tmp_path)["status"] == "failed"


def test_too_many_threads_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5000)
    assert train(tmp_path / "o", *SHORT) == 2
    assert "OMP_NUM_THREADS=5000" in capfd.readouterr().err and not (tmp_path / "o").exists()


@pytest.mark.parametrize("anew", [False, True])
def test_a_folder_that_is_removed_ends_the_run_in_a_line(
    anew: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    check = RunFolder.check

    def remove(self: RunFolder) -> None:
        shutil.rmtree(self.path)
        if anew:
            for folder in (self.path, self.checkpoints):
                folder.mkdir()
            (self.path / ".lock").touch()
        check(self)

    monkeypatch.setattr(RunFolder, "check", remove)
    assert train(tmp_path, *SHORT) == 1
    said = capfd.readouterr().err
    assert "was removed or replaced while this run was at work" in said and "Traceback" not in said
    assert not list(tmp_path.glob("*/summary.json")), "what is another's, if anyone's, is left alone"


def test_a_poor_environment_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setenv("LPT_CACHE", str(tmp_path / "file" / "cache"))  # cannot be made
    monkeypatch.setenv("PATH", str(tmp_path))  # no compiler, no git
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    assert train(tmp_path / "o", *SHORT, "compile=rounding", "trainer.max_steps=1") == 0
    said = capfd.readouterr().err
    assert "ran eagerly" in said and "Traceback" not in said
    assert summary(tmp_path / "o")["git_commit"] is None
    assert run_folder(tmp_path / "o").is_dir() and os.environ["PATH"] == str(tmp_path)


def nowhere() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_vocabulary_that_cannot_be_kept_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    kept = bpe(["one two", "two"], 262, str(tmp_path / "cache"))
    lost = bpe(["one two", "two"], 262, str(tmp_path / "file" / "cache"))
    assert kept.to_str() == lost.to_str() == bpe(["one two", "two"], 262, str(tmp_path / "cache")).to_str()
    assert "the vocabulary is not kept" in capfd.readouterr().err
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert bpe(["one two", "two"], 262).to_str() == kept.to_str()
