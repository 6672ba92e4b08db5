"""Which folder a command's run would have, found without running it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from ..runs.folder import run_name
from ..runs.messages import CONF
from ..runs.named import names


class Folders:
    """The names of the folders that `python train.py OVERRIDES` would make; within `initialize_config_dir`.

    Composing files takes Hydra a quarter of a second, so it is done once for each choice of files, and an override is
    read once; keys are set on a copy, as Hydra itself sets them, after its files.
    """

    def __init__(self) -> None:
        self._parser = OverridesParser.create()
        self._parsed: dict[str, Override] = {}
        self._composed: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}

    def name(self, overrides: Sequence[str]) -> str:
        """The name, without the folder that it lies in."""
        read = [self._read(override) for override in overrides]
        chosen = [o for o in read if not self._is_a_key(o)]
        cfg, choices = self._of_files(tuple(str(o.input_line) for o in chosen))
        ConfigLoaderImpl._apply_overrides_to_config([o for o in read if self._is_a_key(o)], cfg)
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        return run_name(config, [*names(cfg, choices).values(), f"seed{config['seed']}"])

    def _read(self, override: str) -> Override:
        if override not in self._parsed:
            (self._parsed[override],) = self._parser.parse_overrides([override])
        return self._parsed[override]

    @staticmethod
    def _is_a_key(override: Override) -> bool:
        """Whether it sets a key, and does not choose or take away a file."""
        plain = not override.is_sweep_override() and not override.is_hydra_override() and not override.package
        return plain and not override.is_delete() and not (CONF / override.key_or_group).is_dir()

    def _of_files(self, chosen: tuple[str, ...]) -> tuple[DictConfig, dict[str, str]]:
        if chosen not in self._composed:
            cfg = compose("config", list(chosen), return_hydra_config=True)
            choices = {key: str(value) for key, value in cfg.hydra.runtime.choices.items()}
            with open_dict(cfg):
                del cfg["hydra"]
            self._composed[chosen] = cfg, choices
        cfg, choices = self._composed[chosen]
        return copy.deepcopy(cfg), choices
