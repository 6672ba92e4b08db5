"""The command `scripts/search_formats.py`: a trained model in, `outputs/search-.../` with a ranking of formats out."""

from __future__ import annotations

import hashlib
import shlex
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch.utils import _pytree as pytree

from ..callbacks.guarded import Guarded
from ..errors import UserError
from ..places import place
from ..report.ranking import LABELLED
from ..search import Candidate, Journal, Ranking, search
from ..search.engine import check, check_more, wanted
from ..search.suggest import menu_of
from ..tasks.task import Task
from . import code, covered, summary
from .build import flag, told, whole
from .experiment import quiet
from .folder import RunFolder, replace, run_name
from .named import built, stands_for
from .pricing import Price, pricing
from .ranked import job, results_of, written
from .terminal import say
from .tracking import trackers
from .trained import trained

# The keys of conf/search.yaml that a training does not have.
OWN = ("checkpoint", "formats", "method", "by", "activation", "batches", "batch_size", "top", "confidence", "layers",
       "cost", "accumulator", "library", "trust", "candidates", "systematic", "draws", "slots", "menu", "bound",
       "budget", "spend")  # fmt: skip


class SearchFolder(RunFolder):
    """`outputs/search-...`: evaluations.jsonl, ranking.csv, ranking.txt, summary.json and figures."""

    def open(self, resume: bool) -> str:
        self.path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        if not resume:
            for name in ("summary.json", "evaluations.jsonl"):
                (self.path / name).unlink(missing_ok=True)
        if self.kept().get("status") == "finished":
            return "finished"
        if (self.path / "summary.json").exists() and not self.kept():
            print("summary.json was damaged: the search goes on from its evaluations", file=sys.stderr)
            (self.path / "summary.json").unlink()
        return "new"


def rank(cfg: DictConfig, choices: dict[str, str]) -> str:
    """Do the search that `cfg` describes, or go on with it; returns the text that it prints.

    Raises:
        UserError: before anything is trained or measured, if the configuration cannot be run.
    """
    quiet()
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    with told("search"):
        check(*(config[key] for key in ("batches", "method", "by", "activation", "top", "confidence", "layers")))
        formats = _wanted(config)
        price, costs = pricing(config)
    if config["batch_size"] is not None:
        whole("batch_size", config["batch_size"], 1)
    resume, progress = flag("resume", cfg.resume), flag("progress", cfg.progress)
    task, file, names = trained(cfg, choices, OWN)
    config |= {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("model", "data", "task")}
    config["checkpoint"] = hashlib.sha256(file.read_bytes()).hexdigest()
    outputs = place(cfg.paths.outputs, "paths.outputs")
    folder = SearchFolder(outputs / run_name(config, ["search", *names.values(), config["method"]]))
    run_id = (folder.kept().get("wandb_id") if resume else None) or uuid.uuid4().hex[:12]
    about = {"choice": names, "group": "search", "job_type": "search"}
    made = trackers(cfg, folder=folder.path, config=config, run_id=run_id, about=about)  # tells what it lacks
    logger = next((one for one in made if isinstance(one, Guarded)), None)
    known, own = folder.kept().get("own_code"), code.own_code(config)
    if resume and known is not None and (odd := code.changed(known, own)):
        raise UserError(
            f"your own code is not what it was when {folder.path} was measured: {', '.join(odd)}.\n"
            "  variant=WORD  makes a search with the new code beside that one\n  resume=false  measures it afresh"
        )
    try:
        with told("paths.outputs"):
            state = folder.open(resume)
        if state == "finished":
            print("this search is finished (resume=false measures afresh)", file=sys.stderr)
        else:
            _measure(cfg, config, task, formats, folder, file, names, progress, run_id, logger, price, costs)
        text = (folder.path / "ranking.txt").read_text(encoding="utf-8")
    finally:
        folder.close()
    say(text)
    return text


def _measure(
    cfg: DictConfig, config: dict[str, Any], task: Task, formats: list[Candidate], folder: SearchFolder, file: Path,
    names: dict[str, str], progress: bool, run_id: str, logger: Any, price: Price, costs: str,
) -> None:  # fmt: skip
    title = " on ".join(names.values())
    start = time.perf_counter() - (folder.summary().get("wall_seconds") or 0)  # what was measured before a stop, too
    _begun(cfg, folder, file, title, run_id, code.own_code(config))
    task.to("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")
    batches = take(task, config["batches"])
    print(f"{title}, weights of {file}; {len(formats)} formats, {len(batches)} batches of {task.batch_size}",
          file=sys.stderr)  # fmt: skip
    print(f"{folder.path}/", file=sys.stderr, flush=True)

    found, whose = covered.of_search(task, formats)
    print(f"{whose}: {found}" if whose else found, file=sys.stderr, flush=True)
    folder.write_summary(coverage=round(found.share, 6), coverage_missing="; ".join(found.missing))

    def loss(model: Any, batch: list[Any]) -> Any:
        return task.loss(batch[0])[0]

    if config["method"] == "race" and len(formats) <= config["top"]:
        best = "; top=1 looks for the best alone" if len(formats) > 1 else ""
        print(f"no race: top={config['top']} asks for as many formats as there are, so each runs on every batch{best}",
              file=sys.stderr)  # fmt: skip
    journal = Journal(folder.path / "evaluations.jsonl", folder.path.name)
    if journal.known:
        print(f"going on: {len(journal.known):,} evaluations are kept from before", file=sys.stderr)

    def spent() -> float:
        return time.perf_counter() - start

    watch = Watch(len(batches), progress, lambda: folder.write_summary(wall_seconds=round(spent(), 1)))
    try:
        with told("search"):
            ranking = search(
                task.model, [[batch] for batch in batches], loss, formats, **{key: config[key] for key in PASSED},
                layers_of=LABELLED, price=price, costs=costs, journal=journal, watch=watch,
            )  # fmt: skip
    finally:
        watch.close()
        seconds = spent()
        folder.write_summary(wall_seconds=round(seconds, 1))
    figures = written(ranking, folder.path, title, seconds, job(cfg, folder.path, names, OWN))
    results = results_of(ranking)
    _to_wandb(logger, ranking, figures, results)
    folder.write_summary(status="finished", **results, wall_seconds=round(seconds, 1))


def _begun(cfg: DictConfig, folder: SearchFolder, file: Path, title: str, run_id: str, own: str) -> None:
    """Put into the folder what is known before anything is measured."""
    replace(folder.path / "config.yaml", OmegaConf.to_yaml(cfg))
    folder.write_summary(
        status="running", title=title, command=_command(), checkpoint=str(file), wandb_id=run_id, own_code=own,
        git_commit=summary.git_commit(), versions=summary.versions(), hardware=summary.hardware(),
    )  # fmt: skip


def _command() -> str:
    """What was typed."""
    from hydra.core.hydra_config import HydraConfig

    return shlex.join(["python", "scripts/search_formats.py", *HydraConfig.get().overrides.task])


PASSED = ("method", "by", "activation", "top", "confidence", "seed", "layers", "systematic", "draws", "slots", "menu",
          "bound", "budget", "spend")  # fmt: skip


def _wanted(config: dict[str, Any]) -> list[Candidate]:
    """What is searched; into `config` what its names stand for, and what follows from it.

    Raises:
        ValueError: an unknown name, or a setting that is not possible.
    """
    for key in ("formats", "candidates", "menu"):
        if isinstance(config[key], list):
            config[key] = [stands_for(spec) for spec in config[key]]
        elif config[key] is not None:
            raise ValueError(f"{key}={config[key]!r} is not a list: write [{config[key]}]")
    lists = [
        None if config[key] is None else [built(spec) for spec in config[key]] for key in ("formats", "candidates")
    ]
    found = wanted(*lists)
    slots = any(each.products is not None for each in found) or bool(config["menu"])
    for key, usual in (("systematic", 4), ("slots", 2)):
        config[key] = (usual if slots else 0) if config[key] is None else config[key]
    check_more(*(config[key] for key in ("systematic", "draws", "slots", "menu", "bound", "budget", "spend")))
    if config["menu"]:
        menu_of(config["menu"])
    return found


def take(task: Task, count: int) -> list[Any]:
    """The first `count` training batches, epoch after epoch, on the task's device."""
    loader = task.train_batches()
    found: list[Any] = []
    epoch = 0
    while len(found) < count:
        loader.set_epoch(epoch)
        for batch in loader:
            found.append(pytree.tree_map(lambda part: part.to(task.device), batch))
            if len(found) == count:
                break
        epoch += 1
    return found


def _to_wandb(logger: Any, ranking: Ranking, figures: list[Path], results: dict[str, Any]) -> None:
    if logger is None:
        return
    import wandb

    records = ranking.records()
    table = wandb.Table(columns=list(records[0]), data=[list(record.values()) for record in records])
    images = {f"figures/{path.stem}": wandb.Image(str(path)) for path in figures}
    logger.log_objects({"ranking": table, **images})
    logger.close(results)


class Watch:
    """The race as it goes: on a terminal a bar with the formats still alive, elsewhere a line now and then."""

    def __init__(self, batches: int, shown: bool, note: Callable[[], object]) -> None:
        self.batches, self.shown, self.note = batches, shown, note  # `note` keeps the time, in case of a kill
        self._bar: Any = None
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=batches, unit="batch", dynamic_ncols=True)

    def __call__(self, batch: int, alive: int) -> None:
        self.note()
        if self._bar is not None:
            self._bar.n = batch
            self._bar.set_postfix_str(f"{alive} formats alive")
        elif self.shown and (batch & (batch - 1) == 0 or batch % 20 == 0):
            print(f"batch {batch + 1} of at most {self.batches}: {alive} formats", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
