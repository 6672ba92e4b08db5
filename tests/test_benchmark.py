"""scripts/benchmark.py runs and writes what it measured; what it measured is no test."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lpt.benchmarks import brief, chart, networks, simulators, training
from lpt.benchmarks.measuring import Work, measured, table
from lpt.dataflow.quantizer import Quantizer

ROOT = Path(__file__).resolve().parents[1]


def run(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/benchmark.py", "--out", str(tmp_path / "made" / "b.json"), *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_small_run_writes_ratios_and_draws_them(tmp_path: Path) -> None:
    small = ("--rounds", "2", "--threads", "1", "--device", "cpu", "--batch", "2", "--clock", "cpu")
    done = run(tmp_path, "--only", "depths", "--only", "gpu", *small)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "made" / "b.json").read_text())
    assert (written["rounds"], written["device"]) == (2, "cpu") and written["commit"] and written["hardware"]
    assert set(written["depths"]) == {f"ResNet-{n}, {what}" for n in (8, 20, 32, 56) for what in ("fp32", "quantized")}
    ours = written["depths"]["ResNet-56, quantized"]
    assert ours["base"] == "ResNet-56, fp32" and written["depths"]["ResNet-56, fp32"]["ratio"] == 1.0
    assert 0 < ours["low"] <= ours["ratio"] <= ours["high"] and f"{ours['ratio']:.2f}" in done.stdout
    assert written["gpu"] or "not measured, torch finds no CUDA GPU here" in done.stdout
    for suffix in ("png", "svg"):
        assert (tmp_path / "made" / f"b.{suffix}").stat().st_size > 1000


def test_what_a_gpu_is_asked_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brief, "tests", lambda small: {"tests": "1 passed"})  # they would be run within these
    found = brief.brief("cpu", tmp_path / "brief", small=True)
    assert not [
        part for part, value in found.items() if isinstance(value, str) and value.startswith(("failed", "left"))
    ]
    assert set(found["side by side"]) >= {"1"} and found["side by side"]["1"]["of one"] > 0
    assert found["steps"]["quantized, packed, TF32 off"]["ratio"] > 0 and found["rounding"]["fp134"]["base"] == "copy"
    assert json.loads((tmp_path / "brief" / "brief.json").read_text()) == found
    told = (tmp_path / "brief" / "brief.md").read_text()
    assert "the numbers mean nothing" in told and all(f"## {part}" in told for part in ("steps", "waiting", "tests"))


def test_a_part_of_the_brief_that_fails_or_comes_too_late_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(brief, "waiting", broken)
    monkeypatch.setattr(brief, "_rounding", lambda *args: time.sleep(0.3))
    monkeypatch.setattr(brief, "WITHIN", 0.2)
    found = brief.brief("cpu", tmp_path, small=True)
    assert found["waiting"] == "failed: RuntimeError: no memory" and found["steps"].startswith("left out")


def test_small_networks_run() -> None:
    """Without their kernels, which take long to compile."""
    for made in (networks.Digits(2), networks.Words(2, 2, 50), networks.Sentences(2, 3, 50)):
        before = [p.detach().clone() for p in made.model.parameters()]
        made.quantize(fuse=False)
        made()
        assert any(not p.equal(q) for p, q in zip(made.model.parameters(), before, strict=True))


def test_other_libraries_round_where_lpt_does() -> None:
    step = training.Step(8, 2)
    behind = simulators.places(step)
    assert len(behind) > 15 and not any(module._forward_hooks for module in step.model.modules())
    for build in (simulators._torch, simulators._qtorch, simulators._brevitas):
        try:
            _, run = build(8, 2)
        except ImportError:
            continue
        run()


def test_bad_numbers_are_told_before_anything_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "--rounds", "0")
    assert done.returncode == 2 and "whole numbers from 1 upward" in done.stderr
    assert not (tmp_path / "made").exists()


def test_ratios_are_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times double from round to round: the ratios do not see it; a sum is one of its own round's times."""
    seconds = iter([1.0, 3.0, *(t * 2.0**i for i in range(5) for t in (1.0, 3.0))])
    monkeypatch.setattr("lpt.benchmarks.measuring.timed", lambda run, clock: next(seconds))
    works = {"a": Work(print), "b": Work(print, target=2.5, bound=1), "c": Work(parts={"b": 1, "a": 0.5}, base="b")}
    rows = measured(works, 5)
    assert [rows[n]["ratio"] for n in "abc"] == [1, 3, 3.5 / 3] and rows["b"]["low"] == rows["b"]["high"] == 3
    assert rows["a"]["ms"] == 4000 and rows["b"]["first_s"] == 3 and "first_s" not in rows["c"]
    lines = table("title", rows).splitlines()
    assert "2.5!" in lines[4] and "!" not in lines[3] and lines[5].endswith("b")


def test_profile_adds_up() -> None:
    before = Quantizer.__call__
    found = training.profiled(8, 2, "cpu", 1)
    assert Quantizer.__call__ is before
    parts = sum(found[part] for part in ("rounding", "weights", "optimizer", "rest"))
    assert parts == pytest.approx(found["quantized step"]) and min(found.values()) > 0
    assert found["rounded elements"] > 2 * 3 * 32 * 32


def test_the_probe_of_the_step_leaves_it_as_it_is() -> None:
    """As the indicators' own: the next step is the same with and without."""
    steps = [training.Step(8, 4, quantized=True) for _ in range(2)]
    steps[1].probe()
    for one in steps:
        one()
    first, second = (list(one.model.state_dict().values()) for one in steps)
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))


def test_chart_leaves_out_what_was_not_measured(tmp_path: Path) -> None:
    rows = measured({"copy": Work(lambda: None), "fp134": Work(lambda: None, target=1.3)}, 2)
    paths = chart.draw({"rounding": rows, "gpu": {}}, {"rounding": "Rounding", "gpu": "GPU"}, tmp_path / "chart.json")
    drawn = paths[1].read_text()
    assert [p.name for p in paths] == ["chart.png", "chart.svg"] and "Rounding" in drawn and "GPU" not in drawn
