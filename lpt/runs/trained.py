"""A trained model for the commands that train nothing themselves: a run's, a file's, or one that is trained first."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from ..callbacks.sealing import SEALED
from ..tasks.task import Task
from . import saved
from .build import build, told
from .evaluation import stored
from .experiment import Experiment
from .folder import RunFolder
from .parts import make_task
from .run import train
from .training import Training
from .trust import trusted


def trained(cfg: DictConfig, choices: dict[str, str], own: Sequence[str]) -> tuple[Task, Path, dict[str, str]]:
    """The task with its trained model, the file of the weights, and the names of model and data.

    Args:
        cfg: with `checkpoint` (a run, a file, or null: the training that `cfg` describes) and `batch_size` (or null).
        own: the keys that a training does not have.

    Raises:
        UserError: there is no such checkpoint, it does not fit, or the training cannot be run.
    """
    file = saved.find(cfg.checkpoint, key="checkpoint") if cfg.checkpoint else _trained(cfg, choices, own)
    names = {"model": str(cfg.model.get("name") or choices["model"]), "data": choices["data"]}
    state = saved.read(file)
    if SEALED in state or (file.resolve().parents[1] / "config.yaml").is_file():
        names |= _as_in_its_run(cfg, file, state)
    training: Training = build("trainer", cfg.trainer)
    task = make_task(cfg, training)
    saved.load(task.model, file)
    task.batch_size = cfg.batch_size or training.batch_size
    with told("batch_size"):
        task.batches_per_epoch(1)
    return task, file, names


def _trained(cfg: DictConfig, choices: dict[str, str], keys: Sequence[str]) -> Path:
    """The checkpoint of the training that `cfg` describes, which is done first unless it is done already."""
    own = cfg.copy()
    with open_dict(own):
        for key in keys:
            own.pop(key)
        own.resume = True
    folder = Experiment(own, choices).folder
    if folder.status() != "finished":
        print("no checkpoint given: the model is trained first", file=sys.stderr)
        train(own, choices)
    return saved.find(folder.path)


def typed() -> dict[str, str]:
    """The words of the command line, each with its key in the configuration."""
    from hydra.core.hydra_config import HydraConfig

    return {o: o.lstrip("+~").split("=")[0].split(".")[0] for o in HydraConfig.get().overrides.task}


def _as_in_its_run(cfg: DictConfig, file: Path, state: Mapping[str, Any]) -> dict[str, str]:
    """Model, data and task as in the run that wrote `file`, for all that the command line does not choose.

    Returns the names of the model and the data that come from there.
    """
    given = set(typed().values())
    run = stored(file, state, trusted(cfg.get("trust") or ()))
    with open_dict(cfg):
        for group in ("model", "data", "task"):
            if group not in given:
                cfg[group] = run[group]
    known = RunFolder(file.resolve().parents[1]).kept()
    return {group: known[group] for group in ("model", "data") if group in known and group not in given}
