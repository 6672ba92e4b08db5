"""Evaluating what a run has learned, in the run's own formats or in any others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from ..callbacks.checkpoints import seed_everything
from ..dataflow import Flow, attach_, attach_products_
from ..errors import UserError
from ..tasks.task import Task
from . import saved
from .build import build, told, whole
from .experiment import make_quantization, make_task, quiet
from .messages import CONF
from .named import spell_out

CALIBRATION = 20  # batches of training data from which scales are taken that the run does not have
GROUPS = ("format", "products", "weights")


def evaluate(run: str, overrides: list[str]) -> dict[str, float]:
    """The validation metrics of a run: `metrics` of what `prepared` gives."""
    return metrics(prepared(run, overrides))


def prepared(run: str, overrides: list[str]) -> Task:
    """The task of a run with the network of its last checkpoint, or of a checkpoint's file, ready to be evaluated.

    With the run's own weights scheme, the quantized weights are those of the run. With another one (`weights=`), they
    are its masters, rounded to nearest, while batch-norm statistics stay those that belong to the run's own. Scales of
    A are the run's where it has them, and otherwise taken from `CALIBRATION` batches of its training data.

    Args:
        run: the run's folder, or a checkpoint in it.
        overrides: as on train.py's command line: `format=...`, `products=...`, `weights=...`, and single keys.

    Raises:
        UserError: no such run, or overrides that do not fit it.
    """
    quiet()
    file = saved.find(run, best=False)
    cfg = overridden(stored(file), overrides)
    seed_everything(whole("seed", cfg.seed))
    state = saved.read(file)
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
    return task


def stored(file: Path) -> DictConfig:
    """The configuration of the run that wrote the checkpoint `file`."""
    path = file.resolve().parents[1] / "config.yaml"
    if not path.is_file():
        raise UserError(f"{file} has no config.yaml two folders up: give the folder of a run, or a checkpoint in it")
    cfg = OmegaConf.load(path)
    assert isinstance(cfg, DictConfig)
    if cfg.model.get("pretrained"):
        cfg.model.pretrained = False  # its weights come from the checkpoint
    return cfg


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


def metrics(task: Task) -> dict[str, float]:
    """The task's metrics over all of its validation data."""
    task.model.eval()
    sums: dict[str, float] = {}
    with torch.no_grad():
        for i, batch in enumerate(task.val_batches()):
            found = task.validation_step([part.to(task.device) for part in batch], i)
            size = found.pop("size")
            for name, value in {**found, "size": torch.ones(())}.items():
                sums[name] = sums.get(name, 0.0) + value.item() * size
    total = sums.pop("size")
    means = {name: value / total for name, value in sums.items()}
    return {f"val/{name}": value for name, value in (means | task.derived(means) | task.collected()).items()}
