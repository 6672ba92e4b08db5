"""The time before the first step, each in a process of its own: imports, and compilation with and without a cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

IMPORTS = ("torch", "lpt", "lpt.runs.run")
MODES = ("eager", "compile=rounding", "compile=true")

# Prints the seconds that a step is built and run for the first times, beyond what these steps take later.
FIRST_STEPS = """
import sys, time
import torch
from lpt.benchmarks.training import Step
from lpt.execution.heap import keep_freed_memory
torch.set_num_threads(int(sys.argv[2]))
keep_freed_memory()
start = time.perf_counter()
step = Step(20, int(sys.argv[3]), quantized=True, fuse=sys.argv[1] != "eager", compile=sys.argv[1] == "compile=true")
step()
step()
first = time.perf_counter()
step()
print(first - start - 3 * (time.perf_counter() - first))
"""


def starting(batch: int, threads: int) -> dict[str, float]:
    """Seconds of each import, and what a quantized ResNet-20's first steps and its building take beyond later steps."""
    found = {}
    for module in IMPORTS:
        start = time.perf_counter()
        _run(f"import {module}")
        found[f"python, import {module}"] = time.perf_counter() - start
    for mode in MODES:
        with tempfile.TemporaryDirectory() as cache:
            for state in ("empty", "filled") if mode != "eager" else ("no",):
                printed = _run(FIRST_STEPS, mode, str(threads), str(batch), cache=cache)
                found[f"first steps, {mode}, {state} cache"] = float(printed.splitlines()[-1])
    return found


def _run(code: str, *args: str, cache: str | None = None) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    if cache is not None:
        env["TORCHINDUCTOR_CACHE_DIR"] = cache
    done = subprocess.run([sys.executable, "-c", code, *args], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout
