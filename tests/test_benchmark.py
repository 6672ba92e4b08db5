"""scripts/benchmark.py runs and writes what it measured; what it measured is no test."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/benchmark.py", "--out", str(tmp_path / "made" / "b.json"), *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_small_run_writes_ratios(tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "peers", "--elements", "4096", "--rounds", "3", "--threads", "1", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "made" / "b.json").read_text())
    assert (written["rounds"], written["elements"], written["device"]) == (3, 4096, "cpu")
    assert written["peers"]["copy"]["ratio"] == 1.0
    ours = written["peers"]["lpt fp134"]
    assert 0 < ours["low"] <= ours["ratio"] <= ours["high"] and f"{ours['ratio']:.2f}" in done.stdout


def test_bad_numbers_are_told_before_anything_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "--rounds", "0")
    assert done.returncode == 2 and "whole numbers from 1 upward" in done.stderr
    assert not (tmp_path / "made").exists()
