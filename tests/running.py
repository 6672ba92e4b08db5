"""How tests run `train.py`: in this process where they can, in forked processes where they kill."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as `python train.py` has it
torch.set_num_threads(1)  # networks of this size gain nothing from more, and test processes share the cores

# A run of a few seconds: a narrow network, few images.
TINY = (
    "model.width=8", "data.train_limit=96", "trainer.batch_size=16", "trainer.epochs=2", "trainer.log_every=2",
    "trainer.accelerator=cpu", "logger.mode=disabled", "progress=false", "indicators=flips", "compile=false",
)  # fmt: skip


def train(folder: Path, *overrides: str) -> int:
    """`python train.py` with TINY settings and `overrides`, in this process; returns the exit code."""
    flags = [override for override in overrides if override == "-m"]  # which must not stand between others
    return main(*flags, *TINY, f"paths.outputs={folder}", *(o for o in overrides if o not in flags))


def main(*arguments: str) -> int:
    from lpt.runs.run import main as run

    before = sys.argv
    sys.argv = [str(ROOT / "train.py"), *arguments]
    try:
        return run()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before


def search(*arguments: str) -> int:
    """`python scripts/search_formats.py ...`, in this process."""
    from lpt.runs.run import main
    from lpt.runs.searching import rank

    before, sys.argv = sys.argv, [str(ROOT / "scripts" / "search_formats.py"), *arguments]
    try:
        return main("search", rank)
    finally:
        sys.argv = before


def own_conf(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of conf/ in `folder`, which the commands take for conf/ until the test is over."""
    from lpt.runs.messages import CONF

    shutil.copytree(CONF, folder / "conf")
    for module in ("messages", "named", "run", "evaluation", "trust"):
        monkeypatch.setattr(f"lpt.runs.{module}.CONF", folder / "conf")
    return folder / "conf"


def run_folder(folder: Path) -> Path:
    """The only run in `folder`."""
    (only,) = [path for path in folder.iterdir() if (path / "summary.json").exists()]
    return only


def summary(folder: Path) -> dict[str, Any]:
    return json.loads((run_folder(folder) / "summary.json").read_text())


def metrics(folder: Path) -> list[dict[str, str]]:
    with (run_folder(folder) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def checkpoint(folder: Path, name: str = "last") -> dict[str, Any]:
    """What a checkpoint of the only run in `folder` holds, less what it says of the run itself."""
    saved = torch.load(run_folder(folder) / "checkpoints" / f"{name}.ckpt", weights_only=True)
    del saved["lpt"]
    return saved


def differences(a: Any, b: Any, at: str = "", ignore: tuple[str, ...] = ("seconds",)) -> list[str]:
    """Where two nested structures differ, bit for bit; nan equals nan."""
    if isinstance(a, dict) and isinstance(b, dict):
        found = [f"{at}: keys {sorted(map(str, a.keys() ^ b.keys()))}"] if a.keys() != b.keys() else []
        for key in a.keys() & b.keys():
            found += [] if key in ignore else differences(a[key], b[key], f"{at}/{key}", ignore)
        return found
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        found = [f"{at}: lengths {len(a)}, {len(b)}"] if len(a) != len(b) else []
        for i, (x, y) in enumerate(zip(a, b, strict=False)):
            found += differences(x, y, f"{at}[{i}]", ignore)
        return found
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
        return [] if same else [f"{at}: tensors differ"]
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return []
    return [] if a == b and type(a) is type(b) else [f"{at}: {a!r} != {b!r}"]


class Forker:
    """A process that has imported everything, and starts `train.py` runs as forks of itself: each is a process of its
    own to kill, without the seconds that importing takes."""

    def __init__(self) -> None:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forker.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT,
        )  # fmt: skip

    def start(self, *arguments: str, log: Path) -> int:
        """Start a run; returns its process id."""
        return int(self._ask({"argv": list(arguments), "log": str(log)}))

    def wait(self, pid: int) -> int:
        """The exit code of a run, negative for a signal."""
        return int(self._ask({"wait": pid}))

    def _ask(self, question: dict[str, Any]) -> str:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
