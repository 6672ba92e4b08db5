"""scripts/curves.py: its table against means by hand, its figure drawn, its errors told."""

import importlib.util
import json
import statistics
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "curves.py"


@pytest.fixture
def curves():
    spec = importlib.util.spec_from_file_location("curves", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_folder(path, seed, accuracy, weights="log4"):
    path.mkdir()
    summary = {"model": "resnet8", "data": "digits", "format": "fp134", "weights": weights, "seed": seed}
    (path / "summary.json").write_text(json.dumps({**summary, "status": "finished", "val/accuracy": accuracy}))
    rows = ["step,val/accuracy,train/loss,flip_frequency", "1,,2.0,0.5", f"2,{accuracy},1.0,0.25"]
    (path / "metrics.csv").write_text("\n".join(rows) + "\n")
    return str(path)


def test_table_and_figure(curves, tmp_path, monkeypatch, capsys):
    runs = [run_folder(tmp_path / f"r{i}", i, accuracy) for i, accuracy in enumerate((0.9, 0.8, 0.94))]
    runs.append(run_folder(tmp_path / "other", 0, 0.5, weights="fp32"))
    monkeypatch.setattr(sys, "argv", ["curves.py", *runs, "--out", str(tmp_path / "figure.png")])
    assert curves.main() == 0
    mean, deviation = statistics.mean((0.9, 0.8, 0.94)), statistics.stdev((0.9, 0.8, 0.94))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith(
        f"| resnet8 on digits, format fp134, weights log4 | 3 | finished | {mean:.4g} ± {deviation:.2g} |"
    )
    assert "| 1 | finished | 0.5 | - |" in lines[3]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_is_no_run_is_told(curves, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["curves.py", str(tmp_path)])
    assert curves.main() == 2
    assert str(tmp_path) in capsys.readouterr().err
