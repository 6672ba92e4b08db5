"""All that is asked of a GPU, within six minutes, and written as it is found: `scripts/benchmark.py --brief`.

Each part is short, and one that would begin too late is left out, and said so. With `small` the same code runs on a CPU
in seconds, to see that it runs; the numbers then mean nothing.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..execution.packing import Packing
from .measuring import Rows, Work, measured
from .rounding import rounding
from .training import Step, with_tf32

ROOT = Path(__file__).resolve().parents[2]
WITHIN = 360.0  # seconds, after which no part begins
SHARES = {"tests": 90.0, "side by side": 100.0}  # seconds that these may take
MORE = 1.05  # runs side by side must do so much more together than half as many, or no more are tried

# One of several runs side by side: warms up, waits for the others, then steps for some seconds.
RUN = """
import sys, time
import torch
from lpt.benchmarks.training import Step
device, batch, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
torch.set_num_threads(1)
step = Step(20, batch, device, quantized=True, fuse=device != "cpu")
step()
print("ready", flush=True)
sys.stdin.readline()
wait = torch.cuda.synchronize if device == "cuda" else lambda: None
start, count = time.perf_counter(), 0
while time.perf_counter() - start < seconds:
    step()
    wait()
    count += 1
print(count / (time.perf_counter() - start))
"""


def brief(device: str, folder: Path, small: bool = False) -> dict[str, Any]:
    """Run all parts and write `brief.json` and `brief.md` into `folder` after each; returns what is in the first."""
    start = time.monotonic()
    parts: dict[str, Callable[[], Any]] = {
        "waiting": lambda: waiting(device, small),
        "rounding": lambda: _rounding(device, small),
        "steps": lambda: steps(device, small),
        "side by side": lambda: side_by_side(device, small),
        "tests": lambda: tests(small),
    }
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__, "small": small, "seconds": {}}
    for part, run in parts.items():
        begun = time.monotonic()
        if begun - start > WITHIN - SHARES.get(part, 0.0):
            found[part] = "left out: no time was left"
        else:
            try:
                found[part] = run()
            except Exception as error:  # the others are worth having
                found[part] = f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        found["seconds"][part] = time.monotonic() - begun
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "brief.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (folder / "brief.md").write_text(markdown(found), encoding="utf-8")
    return found


def waiting(device: str, small: bool) -> dict[str, str]:
    """Whether the host waits for the device within a step, once the scales have started; torch tells on a GPU."""
    step = Step(8 if small else 20, 2 if small else 128, device, quantized=True, fuse=not small)
    for _ in range(9):  # a scale that has not started is asked for at steps 1, 2, 4, 8
        step()
    if device != "cuda":
        step()
        return {"a step waits": "only a GPU can tell"}
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    except RuntimeError as error:
        return {"a step waits": str(error).splitlines()[0]}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"a step waits": "no"}


def _rounding(device: str, small: bool) -> Rows:
    """A few formats beside a copy; on a GPU the goal is 80 % of its bandwidth."""
    chosen = ("copy", "fp134", "log4", "posit8_1", "fp134, scale found and applied", "fp134, stochastic")
    works = rounding(2**12 if small else 2**26, device)
    return measured({name: works[name] for name in chosen[: 2 if small else None]}, 2 if small else 20)


def steps(device: str, small: bool) -> dict[str, Any]:
    """ResNet-18 on 224 pixels, 64 images, channels last, eager but for the roundings; with the allocator's peak."""
    depth, batch, rounds = (8, 2, 2) if small else (18, 64, 5)

    def step(tf32: bool = False, packed: bool = False, **options: Any) -> Callable[[], None]:
        made = Step(depth, batch, device, channels_last=device == "cuda", **options)
        if packed:
            assert made.flow is not None
            Packing(made.flow)
        return with_tf32(made, tf32)

    quantized = {"quantized": True, "fuse": not small}
    variants: dict[str, Callable[[], Callable[[], None]]] = {
        "fp32, TF32 off": step,
        "fp32, TF32 on": lambda: step(tf32=True),
        "bf16": lambda: step(bf16=True, quantized=False),
        "quantized, TF32 off": lambda: step(**quantized),
        "quantized, TF32 on": lambda: step(tf32=True, **quantized),
        "quantized, bf16": lambda: step(bf16=True, **quantized),
        "quantized, packed, TF32 off": lambda: step(packed=True, **quantized),
    }
    peaks: dict[str, float] = {}
    works: dict[str, Work] = {}
    for name, make in variants.items():
        works[name] = Work(run := make())
        with _peak(device, name, peaks):
            run()
    rows: dict[str, Any] = {name: dict(row) for name, row in measured(works, rounds).items()}
    for name, peak in peaks.items():
        rows[name]["peak_mb"] = peak
    return rows


@contextmanager
def _peak(device: str, name: str, peaks: dict[str, float]) -> Any:
    """Within, what the allocator holds more than before, at the most."""
    if device != "cuda":
        yield
        return
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield
    torch.cuda.synchronize()
    peaks[name] = (torch.cuda.max_memory_allocated() - before) / 1e6


def side_by_side(device: str, small: bool) -> dict[str, dict[str, float]]:
    """Steps a second of 1, 2, 4, ... quantized ResNet-20 runs of CIFAR's shapes at once, each a process."""
    begun, counts, found = time.monotonic(), (1, 2) if small else (1, 2, 4, 8, 16, 32), {}
    for count in counts:
        if time.monotonic() - begun > SHARES["side by side"] / 2:
            break
        command = [sys.executable, "-c", RUN, device, "2" if small else "128", "0.2" if small else "5"]
        runs = [_started(command) for _ in range(count)]
        ready = [run.stdout is not None and run.stdout.readline() == "ready\n" for run in runs]
        for run in runs:
            run.stdin.write("\n" if all(ready) else "")  # type: ignore[union-attr]
            run.stdin.flush() if all(ready) else run.kill()  # type: ignore[union-attr]
        rates = [float(run.communicate()[0] or 0) for run in runs]
        if min(rates) == 0:  # they do not fit
            break
        found[str(count)] = {"steps a second, together": sum(rates), "of one": sum(rates) / count}
        if count > 1 and sum(rates) < MORE * found[str(count // 2)]["steps a second, together"]:
            break
    return found


def _started(command: list[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)


def tests(small: bool) -> dict[str, Any]:
    """The tests that need a GPU, where the clone has its tests."""
    which = ["tests/test_indicators.py"] if small else ["tests", "-k", "gpu or cuda"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", *which]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SHARES["tests"])
    except subprocess.TimeoutExpired:
        return {"tests": f"not done after {SHARES['tests']:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return {"tests": lines[-1] if lines else f"pytest ended with {done.returncode}", "passed": done.returncode == 0}


def markdown(found: Mapping[str, Any]) -> str:
    """What was found, as tables."""
    lines = [f"# {found['device']}, torch {found['torch']}", ""]
    if found["small"]:
        lines += ["A trial of the code on tiny tensors: the numbers mean nothing.", ""]
    for part, value in found.items():
        if part in ("device", "torch", "small"):
            continue
        lines += [f"## {part}", ""]
        if not isinstance(value, dict):
            lines += [str(value), ""]
            continue
        rows = {name: row if isinstance(row, dict) else {"": row} for name, row in value.items()}
        keys = list(dict.fromkeys(key for row in rows.values() for key in row))
        lines += [f"| | {' | '.join(keys)} |", "|---" * (len(keys) + 1) + "|"]
        lines += [f"| {name} | {' | '.join(_cell(row.get(key, '')) for key in keys)} |" for name, row in rows.items()]
        lines.append("")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
