"""Evaluating what a run has learned, in the run's own formats or in any others."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.nn.modules.batchnorm import _NormBase
from yaml import YAMLError

from ..callbacks.checkpoints import seed_everything
from ..callbacks.sealing import SEALED
from ..dataflow import Flow, attach_, attach_products_
from ..errors import UserError
from ..indicators import statistics_anew
from ..report.stored import check_yaml, json_of, text_of
from ..tasks.task import Task
from . import saved, summary
from .build import build, told, whole
from .experiment import quiet
from .folder import replace, stands_for
from .messages import CONF
from .named import spell_out
from .parts import make_quantization, make_task
from .trust import check, trusted

BATCHES = 100  # of training data for batch-norm statistics
CALIBRATION = 20  # batches of training data from which scales are taken that the run does not have
GROUPS = ("format", "products", "weights")


@dataclass(frozen=True)
class Asked:
    """What scripts/evaluate.py is asked besides formats.

    Args:
        split: the part of the data: val, or test.
        statistics: batch-norm statistics: kept, or anew, from `BATCHES` batches of training data.
        trust: packages of which the run's configuration may call something.
    """

    split: str = "val"
    statistics: str = "kept"
    trust: tuple[str, ...] = ()

    @classmethod
    def among(cls, arguments: list[str]) -> tuple[Asked, list[str]]:
        """What is asked among a command's arguments, and the other arguments.

        Raises:
            UserError: a value that there is not.
        """
        given = dict(a.split("=", 1) for a in arguments if a.partition("=")[0] in CHOICES and "=" in a)
        trust = tuple(trusted(given.pop("trust", "")))
        for key, value in given.items():
            if value not in CHOICES[key]:
                raise UserError(f"{key}={value!r} is not one of {', '.join(CHOICES[key])}")
        return cls(**given, trust=trust), [a for a in arguments if a.partition("=")[0] not in CHOICES]


CHOICES: dict[str, tuple[str, ...]] = {"split": ("val", "test"), "statistics": ("kept", "anew"), "trust": ()}


def prepared(run: str, overrides: list[str], asked: Asked) -> Task:
    """The task of a run with the network that `saved.find` finds, ready to be evaluated.

    With the run's own weights scheme, the quantized weights are those of the run. With another one (`weights=`), they
    are its masters, rounded to nearest. Batch-norm statistics then stay those of the run's own weights, which is told,
    unless they are estimated anew. Scales of A are the run's where it has them, and otherwise taken from `CALIBRATION`
    batches of its training data.

    Args:
        run: the run's folder, or a checkpoint in it.
        overrides: as on train.py's command line: `format=...`, `products=...`, `weights=...`, and single keys.
        asked: what is to be measured afterwards.

    Raises:
        UserError: no such run, or overrides that do not fit it.
    """
    quiet()
    file = saved.find(run)
    print(f"weights of {file}", file=sys.stderr)
    state = saved.read(file)
    cfg = overridden(stored(file, state, asked.trust), overrides)
    seed_everything(whole("seed", cfg.seed))
    task = make_task(cfg, build("trainer", cfg.trainer))
    other_weights = any(override.startswith("weights") for override in overrides)
    saved.fit(task.model, saved.weights_of(state, masters=other_weights), file)
    task.to("cuda" if torch.cuda.is_available() and cfg.trainer.accelerator != "cpu" else "cpu")
    quantization = make_quantization(cfg)
    with told("format, products or weights"):
        if other_weights:
            quantization.make_weights(task.model)
        flow = attach_(task.model, quantization.make_flow)
        if quantization.make_products.asked:
            attach_products_(task.model, quantization.make_products)
    take_scales(flow, saved.callback_state(state, "Quantization"), task)
    task.model.eval()
    norms = [m for m in task.model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    if asked.statistics == "anew" and not norms:
        raise UserError("statistics=anew: this network has no batch-norm with statistics; leave it out")
    if asked.statistics == "kept" and other_weights and norms:
        print(
            f"note: the statistics of {len(norms)} batch-norms are those of the run's own weights, not of these: "
            "statistics=anew estimates them from training data",
            file=sys.stderr,
        )
    return task


def measured(task: Task, asked: Asked) -> dict[str, float]:
    """The metrics that are asked for, of a task that was `prepared`.

    Raises:
        UserError: the data has no such part.
    """
    if asked.statistics == "kept":
        return task.measured(asked.split)
    loader = task.train_batches()
    loader.augment = False
    batches = ([part.to(task.device) for part in batch] for batch in islice(loader, BATCHES))
    with statistics_anew(task.model, batches, task.loss):
        return task.measured(asked.split)


def keep(run: str, asked: Asked, overrides: list[str], figures: dict[str, float]) -> Path | None:
    """Put figures into `evaluations.jsonl` of the run's folder, in the place of earlier ones of the same question.

    Returns the file; None if it cannot be written.
    """
    checkpoint = saved.find(run)
    file = checkpoint.resolve().parents[1] / "evaluations.jsonl"
    question = {
        "checkpoint": checkpoint.name,
        "split": asked.split,
        "statistics": asked.statistics,
        "overrides": " ".join(sorted(overrides)),
    }
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        kept = [line for line in lines if not question.items() <= dict(json_of(line)).items()]
        row = {**question, **figures, "git_commit": summary.git_commit()}
        replace(file, "".join(f"{line}\n" for line in [*kept, json.dumps(row)]))
    except (OSError, ValueError, TypeError) as error:
        print(f"note: {file} was not written ({error})", file=sys.stderr)
        return None
    return file


def stored(file: Path, state: Mapping[str, Any], trust: Sequence[str] = ()) -> DictConfig:
    """The configuration of the run that wrote the checkpoint `file`, which holds `state`; harmless (`trust.check`).

    It is that of config.yaml. If that is gone or cannot be read, the checkpoint's own is taken, and it is said, as it
    is if config.yaml is not the run's any more.

    Args:
        trust: packages of which it may call something.

    Raises:
        UserError: there is none, or it asks to call what is not trusted.
    """
    path = file.resolve().parents[1] / "config.yaml"
    entry = state.get(SEALED, {})
    try:
        check_yaml(text_of(path))
        cfg: Any = OmegaConf.load(path)
        whole = isinstance(cfg, DictConfig) and "model" in cfg and "data" in cfg
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        whole = False
    if not whole and "config" not in entry:
        raise UserError(
            f"{file} has no config.yaml two folders up, or none that can be read: give the folder of a run, or a "
            "checkpoint in it"
        )
    if not whole:
        print(f"{path} is gone or damaged: the configuration is that in {file.name}", file=sys.stderr)
        cfg = _its_own(file, entry["config"])
    check(cfg, path if whole else file, trust)
    if whole and entry.get("run") and not stands_for(cfg, entry["run"]):
        print(f"{path} was edited since the run, and is taken as it is now", file=sys.stderr)
    assert isinstance(cfg, DictConfig)
    if cfg.model.get("pretrained"):
        cfg.model.pretrained = False  # its weights come from the checkpoint
    return cfg


def _its_own(file: Path, text: Any) -> Any:
    """The configuration in a checkpoint."""
    try:
        check_yaml(text)
        return OmegaConf.create(text)
    except (ValueError, TypeError, YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"the configuration in {file} cannot be read ({error}): take another checkpoint") from error


def overridden(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """`cfg` with a whole group exchanged by `format=`, `products=` or `weights=`, and with single keys."""
    parsed = list(zip(OverridesParser.create().parse_overrides(overrides), overrides, strict=True))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for group in GROUPS:
            if any(override.key_or_group == group for override, _ in parsed):
                own = [text for override, text in parsed if override.key_or_group.split(".")[0] == group]
                cfg[group] = compose("config", overrides=own)[group]
                parsed = [(override, text) for override, text in parsed if text not in own]
                if group == "weights":  # a remedy belongs to those that were trained
                    cfg.remedy = {"_target_": None}
    for override, text in parsed:
        group, dot, _ = override.key_or_group.partition(".")
        if not dot or group not in (*GROUPS, "data", "trainer"):
            raise UserError(
                f"{text}: only format=, products=, weights= and keys of them, of data and of trainer may change"
            )
    OmegaConf.set_struct(cfg, True)
    for override, _ in parsed:
        OmegaConf.update(cfg, override.key_or_group, override.value())
    return spell_out(cfg)


def take_scales(flow: Flow, state: dict[str, Any], task: Task) -> None:
    """The run's tracked scales, or new ones if its data flow was another."""
    try:
        flow.load_state_dict(state["flow"][0])
    except (KeyError, ValueError):
        task.model.eval()
        task.model.training = True  # the Edges look at the model's own flag, its layers at theirs
        loader = task.train_batches()
        loader.augment = False
        with torch.no_grad():
            for _, batch in zip(range(CALIBRATION), loader, strict=False):
                task.loss([part.to(task.device) for part in batch])
                flow.step()
