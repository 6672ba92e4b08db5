"""Hydra's error messages, made to say what was got, what is valid, and what was probably meant."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent  # what `import lpt` needs on the path
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else ROOT / "conf"  # an installed package has its own


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
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override, text)
    if several := re.match(r"Ambiguous value for argument '(.*)'\n1\. ", text, re.DOTALL):
        return _several(several[1])
    cause = error.__cause__
    return f"{text}\n{cause}" if cause is not None and str(cause) not in text else text


def quoted(text: str) -> str:
    """`text` in quotes, as Hydra takes them whatever stands inside."""
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + (m[2] and '\\"'), text) + '"'


def as_override(key: str, value: object) -> str:
    """`key=value` as Hydra reads it as text, in quotes if it must be."""
    plain = f"{key}={value}"
    return plain if _reads(plain, str(value)) else f"{key}={quoted(str(value))}"


def _unreadable(override: str, text: str) -> str:
    """The message for an override that is not in Hydra's grammar."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"{override}: write {key}=VALUE"
    listed = value.startswith("[") and value.endswith("]") and not re.search(r"[][{}'\"]", value[1:-1])
    spelt = f"[{','.join(quoted(item.strip()) for item in value[1:-1].split(','))}]" if listed else quoted(value)
    if not _reads(f"{key}={spelt}"):  # the fault is in the key, then
        return f"{override}: {text.splitlines()[0]}"
    return (
        f"{override} cannot be read: text with signs like = , : {{ }} ( ) ~ or letters beyond a to z must stand in "
        f"quotes: write {_shell(f'{key}={spelt}')}"
    )


def _several(override: str) -> str:
    """The message for a value with a comma, without -m."""
    key, _, value = override.partition("=")
    return (
        f"{override}: a comma makes several values of it. For one text, write {_shell(f'{key}={quoted(value)}')}; for "
        f"a list, '{key}=[{value}]'; for a run of each, add -m"
    )


def _shell(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _reads(override: str, value: str | None = None) -> bool:
    """Whether Hydra can read the override; if `value` is given, as that text."""
    try:
        (read,) = OverridesParser.create().parse_overrides([override])
        return value is None or (not read.is_sweep_override() and read.value() == value)
    except HydraException:
        return False


def _unknown_key(key: str, config: str) -> str:
    """The message for a key that is not in the configuration: its neighbours are named."""
    parent, _, name = key.rpartition(".")
    defaults = _defaults(config)
    node = OmegaConf.select(defaults, parent) if parent else defaults
    if not isinstance(node, DictConfig):
        return f"{key}: there is no such key, since {parent} has no keys of its own"
    names = [str(n) for n in node if n != "_target_"]
    if name in names:
        group = parent.partition(".")[0]
        return (
            f"{key}: the {group}= that was chosen has no such key, only the default one has; leave it out "
            f"(`python train.py {group}=CHOICE --help` lists the keys of a choice)"
        )
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
        try:
            return compose(config, _choices(sys.argv[1:]))
        except (HydraException, OmegaConfBaseException):  # they do not go with this configuration
            return compose(config)


def _choices(words: list[str]) -> list[str]:
    """Those of a command line's words that choose a file of conf: what a key is not valid for depends on them."""
    parts = [(word, *word.partition("=")) for word in words if "/" not in word and len(word) < 100]
    return [word for word, group, equals, name in parts if equals and (CONF / group / f"{name}.yaml").is_file()]
