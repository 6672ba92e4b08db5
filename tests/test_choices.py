"""`debug=`, `logger=` and sweeps, typed as a user types them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from running import TINY, main, metrics, run_folder, summary

from lpt.callbacks import trackers

QUIET = [word for word in TINY if not word.startswith(("logger.", "trainer.epochs", "trainer.log_every"))]


def typed(folder: Path, *words: str) -> int:
    return main(*(w for w in words if w == "-m"), *QUIET, f"paths.outputs={folder}", *(w for w in words if w != "-m"))


def test_one_batch_goes_from_end_to_end(tmp_path: Path) -> None:
    assert typed(tmp_path, "debug=one_batch", "logger=none") == 0
    found = summary(tmp_path)
    assert found["steps"] == 1 and found["val/accuracy"] is not None
    assert not (run_folder(tmp_path) / "wandb").exists()


def test_overfitting_sees_the_first_batch_alone(tmp_path: Path) -> None:
    more = (
        "trainer.max_steps=30",
        "trainer.log_every=1",
        "format=fp32",
        "weights=fp32",
        "indicators=none",
        "logger=csv",
    )
    assert typed(tmp_path / "one", "debug=overfit", *more) == 0
    one = [float(row["train/loss"]) for row in metrics(tmp_path / "one") if row.get("train/loss")]
    assert typed(tmp_path / "all", "trainer.epochs=5", *more) == 0
    many = [float(row["train/loss"]) for row in metrics(tmp_path / "all") if row.get("train/loss")]
    assert one[-1] < 0.5 * min(many[-1], one[0])


def test_the_profile_is_in_the_runs_folder(tmp_path: Path) -> None:
    assert typed(tmp_path, "debug=profile", "trainer.max_steps=2", "logger=none") == 0
    assert "run_training_batch" in (run_folder(tmp_path) / "fit-profile.txt").read_text()


@pytest.mark.parametrize(("logger", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_a_logger_whose_package_is_missing_is_told_before_work(
    logger: str, package: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None)))
    assert typed(tmp_path / "out", f"logger={logger}") == 2
    assert package in capfd.readouterr().err and not (tmp_path / "out").exists()


def test_a_sweep_prints_its_table_with_means_over_seeds(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = ("trainer.max_steps=2", "indicators=none", "logger=none", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert typed(tmp_path / "out", "-m", "optimizer.lr=0.1,0.01", "seed=0,1", *few) == 0
    out = capfd.readouterr().out
    runs = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/summary.json")]
    assert len(runs) == 4
    rates = [line for line in out.splitlines() if line.lstrip("| ").startswith(("0.1", "0.01", "lr=0.1", "lr=0.01"))]
    assert len(rates) == 2, out
    for path in (tmp_path / "out").iterdir():
        with (path / "metrics.csv").open(newline="") as file:
            assert list(csv.DictReader(file))
