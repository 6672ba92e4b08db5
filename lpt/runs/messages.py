"""Hydra's error messages, made to say what was got, what is valid, and what was probably meant."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

CONF = Path(__file__).resolve().parents[2] / "conf"


def missing(node: Any, at: str = "") -> list[str]:
    """The keys that have no value yet (`???`), by their full names."""
    items = node.items() if isinstance(node, dict) else []
    return [name for k, v in items for name in ([f"{at}{k}"] if v == "???" else missing(v, f"{at}{k}."))]


def readable(error: BaseException, config: str = "config") -> str:
    """The message of an error with `conf/<config>.yaml`, with its cause."""
    text = str(error).split("\nConfig search path:")[0].removeprefix("In 'config': ")
    if choice := re.match(r"Could not find '(\w+)/(.+)'\n\nAvailable options in '\w+':\n(.*)", text, re.DOTALL):
        group, got, options = choice[1], choice[2], choice[3].split()
        return f"{group}={got}: there is no such choice.{_guess(got, options, group + '=')} Valid: {', '.join(options)}"
    if override := re.match(r"Could not override '([\w.]+)'", text):
        return _unknown_key(override[1], config)
    cause = error.__cause__
    return f"{text}\n{cause}" if cause is not None and str(cause) not in text else text


def _unknown_key(key: str, config: str) -> str:
    """The message for a key that is not in the configuration: its neighbours are named."""
    parent, _, name = key.rpartition(".")
    defaults = _defaults(config)
    node = OmegaConf.select(defaults, parent) if parent else defaults
    if not isinstance(node, DictConfig):
        return f"{key}: there is no such key, since {parent} has no keys of its own (in the default configuration)"
    names = [str(n) for n in node if n != "_target_"]
    prefix = f"{parent}." if parent else ""
    valid = ", ".join(prefix + n for n in names)
    more = f" (+{key}=... adds a new one)" if parent else ""
    return f"{key}: there is no such key.{_guess(name, names, prefix)} Valid here: {valid}{more}"


def top_level(config: str = "config") -> list[str]:
    """The keys and groups of `conf/<config>.yaml`."""
    text: dict[str, Any] = yaml.safe_load((CONF / f"{config}.yaml").read_text(encoding="utf-8"))
    groups = [name for entry in text.pop("defaults") if isinstance(entry, dict) for name in entry]
    return [name for name in dict.fromkeys([*text, *groups]) if not name.startswith(("override ", "hydra"))]


def _guess(got: str, options: list[str], prefix: str) -> str:
    near = difflib.get_close_matches(got, options, n=1)
    return f" Did you mean {prefix}{near[0]}?" if near else ""


def _defaults(config: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(config)
