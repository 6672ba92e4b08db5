"""Many runs, a process each: skip what is done, go on with what was stopped, try again what failed."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

from ..errors import UserError
from .plan import Run

LOCAL = "local"
MISTAKE = 2  # the exit code of train.py for a mistake in the command
AT_A_TIME = {"joblib": "n_jobs", "submitit_slurm": "array_parallelism"}  # what a launcher calls the number of processes


def launch(
    runs: Sequence[Run], logs: Path, jobs: int, launcher: str = LOCAL, settings: Sequence[str] = ()
) -> dict[Path, str]:
    """Do all `runs` that are not done; returns, for those that failed, why.

    Args:
        logs: a folder that is there, for what the processes print, a file a run.
        jobs: processes at a time, on this machine.
        launcher: "local", or one of Hydra's launchers, as `hydra/launcher=` takes it.
        settings: of Hydra's launcher, e.g. hydra.launcher.partition=gpu.

    Raises:
        UserError: before anything is done, two runs find the same mistake in the command (this machine only).
    """
    waiting = list({run.folder: run for run in runs if not run.done}.values())
    show = Progress(runs)
    if not waiting:
        return {}
    if launcher == LOCAL:
        return _locally(waiting, logs, jobs, show)
    return _by_hydra(waiting, logs, [f"hydra/launcher={launcher}", *settings], show)


class Progress:
    """How many of all runs are done, and about how long the others will take."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = {run.folder: run for run in runs}
        self.before = sum(run.done for run in self.runs.values())
        self.start = time.perf_counter()
        if self.before:
            self._say(f"{self.before} of {len(self.runs)} runs are done already", True)

    @property
    def fresh(self) -> int:
        """How many were done since."""
        return sum(run.done for run in self.runs.values()) - self.before

    def __call__(self, run: Run, state: str) -> None:
        """Tell of a run."""
        fresh = self.fresh
        done = self.before + fresh
        rest = len(self.runs) - done
        minutes = (time.perf_counter() - self.start) / max(fresh, 1) * rest / 60
        left = f", about {minutes:.1f} min left" if fresh and rest else ""
        what = ", ".join(run.label.values())
        search = "search, " if run.program == "search" else ""
        self._say(f"[{done}/{len(self.runs)}{left}] {state}: {search}{what}, seed {run.seed}", state == "failed")

    def _say(self, text: str, stays: bool) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="\n" if stays else "", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)


# -- on this machine -----------------------------------------------------------------------------------------------


def _locally(waiting: list[Run], logs: Path, jobs: int, show: Progress) -> dict[Path, str]:
    """A process a run, forked from one that has imported everything, so that a run starts at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lpt.reproductions.preload"])
    working: dict[Any, tuple[Run, Any]] = {}
    failed: dict[Path, str] = {}
    mistakes: list[str] = []
    try:
        while waiting or working:
            for run in [r for r in waiting if r.needs in failed]:
                waiting.remove(run)
                failed[run.folder] = "not started: the run whose weights it needs failed"
            ready = [r for r in waiting if _ready(r, waiting, [other for other, _ in working.values()])]
            for run in ready[: jobs - len(working)]:
                waiting.remove(run)
                process = context.Process(target=child, args=(run.program, run.overrides, _log(logs, run)))
                process.start()
                working[process.sentinel] = (run, process)
                show(run, "started")
            for sentinel in connection.wait(list(working)):
                run, process = working.pop(sentinel)
                process.join()
                if not run.done:
                    failed[run.folder] = _why(process.exitcode, _log(logs, run))
                show(run, run.status() if run.done else "failed")
                if process.exitcode == MISTAKE and not show.fresh:
                    mistakes.append(_told(_log(logs, run)))
                    if mistakes.count(mistakes[-1]) == 2:
                        raise UserError(mistakes[-1].removeprefix("error: "))
    finally:
        for _, process in working.values():
            process.terminate()  # SIGTERM: each saves its state
        for _, process in working.values():
            process.join()
    return failed


def _ready(run: Run, *others: Sequence[Run]) -> bool:
    return all(run.needs != other.folder for group in others for other in group)


def child(program: str, overrides: Sequence[str], log: str) -> None:
    """What the process of a run does."""
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(out, stream)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    sys.exit(work(program, overrides))


def _end_with(sentinel: int) -> None:
    """A run whose sweep was killed ends, too; the next one finds its folder free."""
    connection.wait([sentinel])
    os._exit(1)


def work(program: str, overrides: Sequence[str]) -> int:
    """`python train.py OVERRIDES resume=true`, or the search's command, in this process; returns the exit code."""
    from ..runs.run import main
    from ..runs.searching import rank

    command = "train.py" if program == "config" else "scripts/search_formats.py"
    before, sys.argv = sys.argv, [command, *overrides, "resume=true"]
    try:
        return main(program, rank if program == "search" else None)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before


def _log(logs: Path, run: Run) -> str:
    return str(logs / f"{run.folder.name}.log")


def _why(code: int | None, log: str) -> str:
    return f"exit code {code}: {_told(log)} ({log})"


def _told(log: str) -> str:
    lines = Path(log).read_text(encoding="utf-8", errors="replace").split("\n") if Path(log).is_file() else []
    told = [line for line in lines if line.strip()]
    errors = [line for line in told if line.startswith("error:")] or told
    return errors[-1] if errors else "it printed nothing"


# -- by Hydra's launchers ------------------------------------------------------------------------------------------


def _by_hydra(waiting: list[Run], logs: Path, launcher: list[str], show: Progress) -> dict[Path, str]:
    """`python train.py -m` with a list of jobs; first the runs from which others start, then those."""
    failed: dict[Path, str] = {}
    while waiting:
        now = [run for run in waiting if _ready(run, waiting)]
        waiting = [run for run in waiting if run not in now]
        for run in [r for r in now if r.needs in failed]:
            now.remove(run)
            failed[run.folder] = "not started: the run whose weights it needs failed"
        for program in ("config", "search"):
            batch = [run for run in now if run.program == program]
            if batch:
                code = _sweep(program, batch, logs, launcher, show)
                why = f"the sweep ended with exit code {code} ({logs}/sweep.log)"
                failed |= {run.folder: why for run in batch if not run.done}
    return failed


def _sweep(program: str, batch: list[Run], logs: Path, launcher: list[str], show: Progress) -> int:
    jobs = logs / f"jobs-{program}.jsonl"
    jobs.write_text("".join(json.dumps([*run.overrides, "resume=true"]) + "\n" for run in batch), encoding="utf-8")
    module = f"lpt.commands.{'train' if program == 'config' else 'search'}"
    command = [sys.executable, "-m", module, "-m", *launcher, f"hydra.sweeper.jobs={jobs}"]
    command += [f"hydra.sweep.dir={logs / 'sweep'}"]
    with (logs / "sweep.log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        open_runs = list(batch)
        try:
            while True:
                try:
                    code: int | None = process.wait(timeout=2)
                except subprocess.TimeoutExpired:
                    code = None
                for run in [r for r in open_runs if r.done]:
                    open_runs.remove(run)
                    show(run, run.status())
                if code is not None:
                    for run in open_runs:
                        show(run, "failed")
                    return code
        finally:
            process.terminate()
            process.wait()


def check(launcher: str) -> None:
    """Raise if `launcher` is not installed.

    Raises:
        UserError: it is not; the message says how it is installed.
    """
    plugins = {
        "joblib": "hydra_plugins.hydra_joblib_launcher", "submitit_local": "hydra_plugins.hydra_submitit_launcher",
        "submitit_slurm": "hydra_plugins.hydra_submitit_launcher", "ray": "hydra_plugins.hydra_ray_launcher",
    }  # fmt: skip
    if launcher in (LOCAL, "basic"):
        return
    if launcher not in plugins:
        raise UserError(f"launcher={launcher}: give one of {', '.join([LOCAL, 'basic', *plugins])}")
    try:
        importlib.import_module(plugins[launcher])
    except ImportError as error:
        extra = launcher.split("_")[0]
        raise UserError(f"launcher={launcher} is not installed: pip install -e '.[{extra}]' ({error})") from error
