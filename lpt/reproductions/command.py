"""The command `scripts/reproduce.py`: what it takes, and what it does with it."""

from __future__ import annotations

import os
import shlex
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from ..places import place
from ..report import page, sections
from ..report.runs import read
from ..runs.messages import CONF, ROOT
from ..runs.terminal import say
from .launch import AT_A_TIME, LOCAL, check, launch, work
from .plan import SIZES, Plan, Run, known, sizes_of
from .tuning import first, tuned
from .writing import report_failures, write

OWN = ("size", "seeds", "jobs", "threads", "launcher", "outputs", "run", "sweep")
OTHERS = ("only.", "hydra.launcher.")
PROGRAM = "python scripts/reproduce.py"


class Asked:
    """The words behind the name: own keys, places of data, and the rest, which are overrides of train.py.

    Raises:
        UserError: a value that is not possible.
    """

    def __init__(self, words: Sequence[str]) -> None:
        places = {key for size in SIZES for key in _size(size).get("places", {})}
        pairs = [(key, value) for key, equals, value in (word.partition("=") for word in words) if equals]
        own = {key: value for key, value in pairs if key in (*OWN, *places)}
        self.only = {key.removeprefix("only."): v.split(",") for key, v in pairs if key.startswith("only.")}
        self.size = own.get("size", "smoke")
        if self.size not in SIZES:
            raise UserError(f"size={self.size}: give one of {', '.join(SIZES)}")
        self.seeds = self._count(own, "seeds")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        jobs = self._count(own, "jobs", 0)
        self.jobs = (cores if self.size == "smoke" else 1) if jobs is None else jobs
        self.threads = self._count(own, "threads") or max(1, cores // max(1, self.jobs))
        self.launcher = own.get("launcher", LOCAL)
        outputs, here = place(own.get("outputs", "outputs/reproduce"), "outputs").resolve(), Path.cwd()
        self.outputs = outputs.relative_to(here) if outputs.is_relative_to(here) else outputs  # one spelling of a place
        self.run = self._count(own, "run", 0)
        self.sweep = own.get("sweep")
        self.places = {key: str(place(value, key)) for key, value in own.items() if key in places}
        for key, value in self.places.items():
            if not Path(value).is_dir():
                raise UserError(f"{key}={value} is not a folder that is there")
        self.cluster = [word for word in words if word.startswith("hydra.launcher.")]
        if self.cluster and self.launcher == LOCAL:
            raise UserError(f"{self.cluster[0]} needs a launcher of Hydra's: give launcher=joblib, say")
        if jobs and self.launcher in AT_A_TIME:
            self.cluster.insert(0, f"hydra.launcher.{AT_A_TIME[self.launcher]}={jobs}")
        self.given = [w for w in words if w.partition("=")[0] not in (*OWN, *places) and not w.startswith(OTHERS)]
        # What makes a table another one; it has a folder of its own then.
        how = ("jobs=", "threads=", "launcher=", "run=", "sweep=", "hydra.launcher.")
        self.decides = [word for word in words if not word.startswith(how)]

    @staticmethod
    def _count(own: dict[str, str], key: str, least: int = 1) -> int | None:
        if key not in own:
            return None
        if not own[key].isdigit() or int(own[key]) < least:
            raise UserError(f"{key}={own[key]}: give a whole number from {least} upward")
        return int(own[key])

    def plan(self, name: str) -> Plan:
        plan = Plan.read(name, self.size, self.seeds, self.only)
        plan.outputs = self.outputs
        return plan

    def has(self, name: str) -> bool:
        """Whether there is a plan of this name and size."""
        return self.size in sizes_of(name)

    def runs(self, plan: Plan) -> list[Run]:
        return plan.runs(self.outputs, self.given, self.places)

    def folder(self, name: str) -> Path:
        """outputs/reproduce/NAME-SIZE; with overrides or another number of seeds a hash of them behind it."""
        own = [w for w in self.decides if w.partition("=")[0] not in ("size", "outputs")]
        more = f"-{hash_of(own):08x}" if own else ""
        return self.outputs / f"{name}-{self.size}{more}"


def hash_of(words: Sequence[str]) -> int:
    """32 bits that the words decide."""
    return zlib.crc32(" ".join(sorted(words)).encode())


def listed() -> str:
    """What `list` prints."""
    lines = []
    for name in known():
        plans = [Plan.read(name, size) for size in SIZES if size in sizes_of(name)]
        lines += [name, f"    {plans[0].rebuilds}"]
        for plan in plans:
            data = ", ".join(dict.fromkeys(m["data"] for m in plan.models.values())) or "no data"
            cost = plan.cost()
            spent = "cost not measured" if cost is None else f"about {max(1, round(cost / 60))} min of one core"
            lines.append(f"    size={plan.size:<6} {plan.count:>4} runs, {spent}; {data}")
    return "\n".join(lines)


def reproduce(name: str, words: Sequence[str]) -> int:
    """Do the runs of `name`, or of all that have the size, and write their tables; returns the exit code.

    Raises:
        UserError: before anything starts, if something cannot be done.
    """
    asked = Asked(words)
    check(asked.launcher)
    plans = [asked.plan(each) for each in known() if name in (each, "all") and (name == each or asked.has(each))]
    print(f"{', '.join(plan.name for plan in plans)}: composing the runs", file=sys.stderr, flush=True)
    runs = [asked.runs(plan) for plan in plans]
    for run in (run for each in runs for run in each if run.done and run.program == "config"):
        read(run.result).curve("step")  # raises where a file is damaged
    every = [run for each in runs for run in each]
    if asked.sweep:
        return _wandb_sweep(place(asked.sweep, "sweep"), name, words, len(every))
    if asked.run is not None:
        return _one(every, asked.run, asked.threads)
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    failed = {}
    if asked.jobs:
        logs = _folder(asked.outputs / "logs")
        searches = [run for plan, own in zip(plans, runs, strict=True) for run in first(plan, own)]
        failed = launch(searches, logs, asked.jobs, asked.launcher, asked.cluster) if searches else {}
        runs = [tuned(*each) for each in zip(plans, runs, strict=True)]
        every = [run for each in runs for run in each if run.folder not in failed]
        failed |= launch(every, logs, asked.jobs, asked.launcher, asked.cluster)
    else:
        runs = [_begun(plan, tuned(plan, own)) for plan, own in zip(plans, runs, strict=True)]
    for plan, own in zip(plans, runs, strict=True):
        folder = asked.folder(plan.name)
        more = [w for w in words if w.partition("=")[0] != "size" and w != "jobs=0"]
        command = shlex.join([*PROGRAM.split(), plan.name, f"size={asked.size}", *more])
        mine = {run.folder: failed[run.folder] for run in own if run.folder in failed}
        say(f"\n{write(plan, own, folder, command, mine)}\neverything: {folder}/")
    report(asked.outputs)
    report_failures(failed)
    return 1 if failed else 0


def _begun(plan: Plan, runs: list[Run]) -> list[Run]:
    """Without those rows of which no seed has begun; the plan gets a note of them."""
    begun = {run.labels for run in runs if run.status()}
    if absent := [run for run in runs if run.labels not in begun]:
        plan.notes.append(f"{len(absent)} of {len(runs)} runs have not begun; their rows are left out")
    return [run for run in runs if run.labels in begun]


def _folder(path: Path) -> Path:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path} cannot be made ({error.strerror}): give another folder") from error
    return path


def report(outputs: Path) -> Path:
    """The page of everything that is in `outputs`, and beside it.

    Raises:
        UserError: there is nothing.
    """
    roots = dict.fromkeys([outputs, outputs.parent if outputs.name == "reproduce" else outputs])
    folders = list(dict.fromkeys(folder for root in roots for folder in sections.found(root)))
    if not folders:
        raise UserError(f"{outputs} holds no table yet: make one, for example {PROGRAM} hardware_cost")
    out = (outputs.parent if outputs.name == "reproduce" else outputs) / "report" / "index.html"
    for warning in page.build(folders, out):
        print(warning, file=sys.stderr)
    say(f"page: {out}")
    return out


def _one(runs: list[Run], index: int, threads: int) -> int:
    """One run of the list, and before it the one whose weights it needs."""
    import torch

    torch.set_num_threads(threads)
    if index >= len(runs):
        raise UserError(f"run={index}: there are {len(runs)} runs, so give 0 to {len(runs) - 1}")
    wanted = runs[index]
    for run in [*(r for r in runs if r.folder == wanted.needs), wanted]:
        if not run.done and (code := work(run.program, run.overrides)):
            return code
    return 0


def _wandb_sweep(path: Path, name: str, words: Sequence[str], count: int) -> int:
    """A sweep file for `wandb sweep`: its agents take the runs of the list one by one."""
    given = [w for w in words if w.partition("=")[0] != "sweep"]
    given += [] if any(w.startswith("logger") for w in given) else ["logger.mode=online"]
    sweep: dict[str, Any] = {
        "name": name, "program": "scripts/reproduce.py", "method": "grid",
        "parameters": {"run": {"values": list(range(count))}},
        "command": ["${env}", "${interpreter}", "${program}", name, *given, "${args_no_hyphens}"],
    }  # fmt: skip
    text = yaml.safe_dump(sweep, sort_keys=False)
    if path.exists() and not (path.is_file() and path.read_text(encoding="utf-8") == text):
        raise UserError(f"sweep={path} is there already, with something else in it: give another name, or remove it")
    _folder(path.parent)
    path.write_text(text, encoding="utf-8")
    print(f"{path}: {count} runs; wandb sweep {path}, then wandb agent wherever there is a free GPU")
    return 0


def _size(size: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CONF / "size" / f"{size}.yaml").read_text(encoding="utf-8"))
    return found
