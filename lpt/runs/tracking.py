"""The loggers of `logger=`, what they are told of a run, and how W&B's run ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ..errors import UserError
from .build import build
from .folder import run_name
from .messages import CONF


def about(cfg: DictConfig, names: Mapping[str, str], others: Mapping[str, str]) -> dict[str, Any]:
    """What W&B and MLflow are told to find a run by: names, and a group of the same settings with all their seeds."""
    alike = cfg.copy()
    alike.seed, alike.init_from = 0, None
    settings: Any = OmegaConf.to_container(alike, resolve=True)
    group = run_name(settings, list(names.values()))
    return {"choice": {**others, **names}, "group": group[-128:], "job_type": "train"}


def trackers(cfg: DictConfig, **given: Any) -> list[Any]:
    """The loggers of `logger=`: the one that was chosen, and those that it names in `also`, as their files have them.

    Raises:
        UserError: there is no such logger, or what it needs is not installed; nothing has been written.
    """
    own = cfg.logger.copy()
    with open_dict(own):
        also = own.pop("also", None) or []
    nodes = {"logger": own}
    files = {path.stem: path for path in (CONF / "logger").glob("*.yaml")}
    for name in [also] if isinstance(also, str) else also:
        if name not in files:
            raise UserError(f"logger.also={name}: there is no such logger. Valid: {', '.join(sorted(files))}")
        nodes[f"logger.also={name}"] = OmegaConf.load(files[name])
        nodes[f"logger.also={name}"].pop("also", None)
    made = [build(where, node, **given) for where, node in nodes.items()]
    return [logger for logger in made if logger]


def tell_settings(loggers: Sequence[Any], config: dict[str, Any]) -> None:
    """Give the configuration to the loggers that were not made with it."""
    for logger in loggers:
        if type(logger).__name__ in ("TensorBoardLogger", "MLFlowLogger"):
            logger.log_hyperparams(config)


def finish_wandb(summary: Mapping[str, Any], name: str, checkpoints: Path | None) -> None:
    """End W&B's run, with the figures of summary.json and, if given, the folder of checkpoints as an artifact."""
    import wandb

    assert wandb.run is not None
    if checkpoints is not None:
        files = wandb.Artifact(f"{wandb.run.id}-checkpoints", type="model", metadata={"run": name})
        files.add_dir(str(checkpoints))
        wandb.run.log_artifact(files, aliases=["finished"])
    wandb.run.summary.update({key: value for key, value in summary.items() if value is not None})
    wandb.finish(exit_code=0 if summary.get("status") == "finished" else 1)
