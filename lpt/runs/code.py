"""The code of a run that is neither lpt nor installed: found from its `_target_`s, told apart by hashes."""

from __future__ import annotations

import ast
import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType
from typing import Any

from hydra.utils import get_object

LPT = Path(__file__).resolve().parents[1]
OTHERS = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {LPT}


def own_code(config: Any) -> str:
    """The modules of the user's own that the `_target_`s of `config` name, and those that these import.

    Returns:
        "module hash, module hash, ...", sorted; "" if there are none. A hash is of the file's bytes, 8 digits.
    """
    found: dict[str, str] = {}
    todo = [module for target in _targets(config) if (module := _home(target)) is not None]
    while todo:
        module = todo.pop()
        file = _file(module)
        if file is None or module.__name__ in found:
            continue
        found[module.__name__] = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
        todo += _imported(module, file)
    return ", ".join(f"{name} {mark}" for name, mark in sorted(found.items()))


def changed(before: str, now: str) -> list[str]:
    """The modules in which two answers of `own_code` differ."""
    pair = [{name: mark for name, _, mark in (e.partition(" ") for e in text.split(", "))} for text in (before, now)]
    return sorted(name for name in pair[0].keys() | pair[1].keys() if pair[0].get(name) != pair[1].get(name))


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for part in node:
        yield from _targets(part)


def _home(target: str) -> ModuleType | None:
    """The module that defines what a `_target_` names; None if there is no such thing, as building it will tell."""
    try:
        return sys.modules.get(getattr(get_object(target), "__module__", ""))
    except Exception:
        return None


def _file(module: ModuleType) -> Path | None:
    """Its source, if it is the user's own."""
    name = getattr(module, "__file__", None)
    if name is None or module.__name__ == "__main__":
        return None
    file = Path(name).resolve()
    own = file.is_file() and not any(file.is_relative_to(folder) for folder in OTHERS)
    return file if own and not {"site-packages", "dist-packages"} & {*file.parts} else None


def _imported(module: ModuleType, file: Path) -> list[ModuleType]:
    """The modules that the source's `import` statements name, as far as they have been imported."""
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            base = resolve_name(base, module.__package__ or "") if node.level else base
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [sys.modules[name] for name in names if name in sys.modules]
