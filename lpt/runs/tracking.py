"""The loggers of `logger=`, and what they are told of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
