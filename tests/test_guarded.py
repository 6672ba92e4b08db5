"""Weights & Biases may be wrong, gone or killed: a run is told before it starts, or goes on without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import wandb
from running import metrics, run_folder, summary, train

from lpt.callbacks import guarded, loggers
from lpt.errors import UserError

SHORT = ("model.width=4", "trainer.epochs=1", "data.train_limit=48", "trainer.log_every=1")
GOOD: dict[str, Any] = {"mode": "offline", "project": "lpt", "group": None, "tags": []}
ENVIRONMENT = {
    "WANDB_MODE": "garbage", "WANDB_BASE_URL": "nonsense", "WANDB_SILENT": "perhaps", "WANDB_TAGS": "x" * 100,
    "WANDB_QUIET": "3.5",
}  # fmt: skip
SETTINGS = {
    "project": ["a/b", "x" * 300, 3, ["a"], "a%b"], "tags": [["x" * 65], "x" * 65, [3], [None]],
    "group": [["a"], {"b": 2}],
}  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", *ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_a_bad_environment_is_told_before_anything_is_done(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, ENVIRONMENT[name])
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    with pytest.raises(UserError, match=f"W&B refuses .*{name}") as told:
        loggers.wandb(Path("nowhere"), {}, "id", **GOOD)
    assert "\n" not in str(told.value) and "secret" not in str(told.value)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in SETTINGS.items() for value in values])
def test_a_name_that_wandb_refuses_is_told(key: str, value: Any) -> None:
    with pytest.raises(UserError, match=r"logger"):
        loggers.wandb(Path("nowhere"), {}, "id", **{**GOOD, key: value})


def test_a_name_on_the_command_line_is_told_before_a_folder_is_made(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "o", *SHORT, "logger.mode=offline", "logger.project=a/b") == 2
    assert "a/b" in capfd.readouterr().err and not (tmp_path / "o").exists()


def test_a_service_that_cannot_be_started_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def init(**_: Any) -> None:
        raise OSError("no room\nfor a socket")

    monkeypatch.setattr(wandb, "init", init)
    assert train(tmp_path, *SHORT, "logger.mode=offline") == 0
    said = capfd.readouterr().err
    assert said.count("W&B is lost (no room)") == 1 and "Traceback" not in said
    assert summary(tmp_path)["status"] == "finished" and len(metrics(tmp_path)) == 3


def test_a_server_that_does_not_answer_leaves_the_run_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def init(mode: str, **_: Any) -> Any:
        asked.append(mode)
        if mode == "online":
            raise wandb.errors.CommError("timed out")
        return guarded.DummyExperiment()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(loggers, "_check_key", lambda: None)
    assert train(tmp_path, *SHORT, "logger.mode=online") == 0
    assert asked == ["online", "offline"] and "logged offline" in capfd.readouterr().err


def test_a_service_that_is_killed_ends_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    killer = ("+indicators.spy._target_=spies.KillService", "+indicators.spy.step=2")
    assert train(tmp_path / "a", *SHORT, "logger.mode=offline", *killer) == 0
    said = capfd.readouterr().err
    assert said.count("W&B is lost") == 1 and "Traceback" not in said
    assert summary(tmp_path / "a")["status"] == "finished" and len(metrics(tmp_path / "a")) == 3
    assert list(run_folder(tmp_path / "a").glob("wandb/offline-run-*/*.wandb"))
    assert wandb.run is None, "the next run of a sweep is one of its own"
