"""What a configuration that was stored by a run may ask for: nothing that is not known to be harmless is called.

A run's folder may come from anybody. Its config.yaml names what is called (`_target_`), may refer to the environment
(`${oc.env:...}`), and gives paths. So only what a file in `conf` names, torch's optimizers and schedulers, and packages
that the command line trusts (`trust=[my_package]`) are called; no resolver is run that reads anything else; nothing is
downloaded or written where it says.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from .. import formats
from ..errors import UserError
from .messages import CONF

OLDER = (
    "lpt.training.Training",
    "lpt.loggers.wandb",
    "lpt.callbacks.width.Width",
    "lpt.Slot",
)  # not in conf (any more)
TORCH = r"torch\.optim\.(lr_scheduler\.)?[A-Z]\w*"
OTHERS = ("lpt.models.timm", "lpt.models.torchvision")
NAME = r"[\w.]+"  # of one of theirs: no address of a download, no path
_SELECT = "${oc.select:"  # reads another key of the same configuration
_RESOLVER = re.compile(r"\$\{.*:", re.DOTALL)  # a resolver's name may itself be an interpolation


def check(cfg: DictConfig, source: Path, trust: Sequence[str] = ()) -> None:
    """Refuse a stored configuration that would call, read or write something of its own choice.

    Args:
        cfg: as it was read, unresolved.
        source: the file it is from, for the message.
        trust: packages that it may name.

    Raises:
        UserError: it would.
    """
    plain = OmegaConf.to_container(cfg, resolve=False)
    for where, value in _texts(plain):
        if _RESOLVER.search(value.replace(_SELECT, "")):
            raise UserError(
                f"{source} has {where}={value!r}, which would be computed when it is read: write the value itself"
            )
    named = _named()
    for where, node in _nodes(plain):
        target = node.get("_target_")
        if target is not None and not _known(target, named, trust):
            package = str(target).partition(".")[0]
            raise UserError(
                f"{source} asks to call {where}._target_={target}, which is not part of lpt: if you trust that run, "
                f"name the package, trust=[{package}]"
            )
        if target in OTHERS and (node.get("checkpoint_path") or not re.fullmatch(NAME, str(node.get("name")))):
            raise UserError(f"{source} asks {where} for weights from elsewhere: only a model's name is taken from it")
    if isinstance(cfg.get("data"), DictConfig) and cfg.data.get("download"):
        cfg.data.download = False  # it is there already, or is to be asked for on the command line


def trusted(value: str | Sequence[str]) -> list[str]:
    """`trust=` as packages.

    Raises:
        UserError: it is something else.
    """
    words = [word.strip() for word in value.strip("[] ").split(",")] if isinstance(value, str) else list(value or [])
    names = [word for word in words if word]
    if odd := [name for name in names if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.]*", name)]:
        raise UserError(f"trust={odd[0]!r} is not the name of a package: write trust=[my_package]")
    return names


def _known(target: Any, named: Collection[str], trust: Sequence[str]) -> bool:
    if not isinstance(target, str):
        return False
    if target in named or target in OLDER or re.fullmatch(TORCH, target):
        return True
    return any(target == name or target.startswith(f"{name}.") for name in trust)


def _named() -> set[str]:
    """Every `_target_` in conf, one's own files in it included, and the families of formats."""
    families = {f"lpt.formats.{name}" for name in formats.__all__ if name[0].isupper()}
    texts = [path.read_text(encoding="utf-8") for path in CONF.rglob("*.yaml")]
    return families.union(*(re.findall(r"_target_[\"']?: *[\"']?([\w.]+)", text) for text in texts))


def _nodes(value: Any, where: str = "") -> Iterator[tuple[str, dict[Any, Any]]]:
    """Every mapping in `value`, with its place."""
    if isinstance(value, dict):
        yield where, value
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _nodes(inner, f"{where}.{key}" if where else str(key))


def _texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in `value`, keys included, with its place."""
    if isinstance(value, str):
        yield where, value
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(key, str):
            yield where, key
        yield from _texts(inner, f"{where}.{key}" if where else str(key))
