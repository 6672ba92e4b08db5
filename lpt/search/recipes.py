"""A recipe of `conf/recipe` as far as a search can measure it: its products, and the formats of its Edges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..formats.names import nearest

_PACKAGE = Path(__file__).resolve().parents[1]
_CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
_SLOTS = ("x", "w", "dgrad_e", "dgrad_w", "wgrad_e", "wgrad_x")
_USUAL = {"format": "fp134", "weights": "log4_hyst"}  # of conf/config.yaml, where a recipe leaves them to the user


def recipe(name: str) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """What `Products` takes, what `DataFlow` takes of A and E, and what of the recipe is not measured.

    Raises:
        ValueError: there is no such recipe, or nothing in it that rounds A, E or an operand.
    """
    known = sorted(path.stem for path in (_CONF / "recipe").glob("*.yaml"))
    if name not in known:
        known = [each for each in known if any(_parts(each)[:2])]
        raise ValueError(f"recipe:{name}: there is no such recipe{nearest(name, known)}; there are {', '.join(known)}")
    products, edges, left = _parts(name)
    if not products and not edges:
        raise ValueError(f"recipe:{name} leaves the format to you, and rounds nothing by itself: name formats instead")
    return products, edges, left


def _parts(name: str) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """As `recipe`, of one that there is; it may round nothing."""
    given = _read("recipe", name)
    chosen: dict[str, Any] = {}
    for entry in given.pop("defaults", []):
        if isinstance(entry, Mapping):
            chosen |= {str(key).removeprefix("override").strip().lstrip("/"): value for key, value in entry.items()}
    products = products_of(str(chosen.get("products", "none")), given.pop("products", {}))
    flow = _flow(chosen.get("format")) | given.get("format", {})
    edges = {k: flow[k] for k in ("activation", "error") if flow.get(k) not in (None, "fp32")}
    return products, edges, _left(chosen, given, products, flow)


def _left(
    chosen: Mapping[str, Any], given: Mapping[str, Any], products: dict[str, Any], flow: Mapping[str, Any]
) -> tuple[str, ...]:
    """What of a recipe no search measures, for people; scales that follow from earlier tensors are taken away."""
    found = []
    if chosen.get("weights", _USUAL["weights"]) != "fp32":
        found.append(f"weights={chosen.get('weights', _USUAL['weights'])} (the model's weights are taken as they are)")
    if any(isinstance(products.get(slot), Mapping) and products[slot].get("scaling") for slot in _SLOTS):
        found.append("scales that follow from earlier steps (each tensor's own is taken)")
        for slot in _SLOTS:
            if isinstance(products.get(slot), Mapping):
                products[slot] = {key: value for key, value in products[slot].items() if key != "scaling"}
    if products.pop("phases", None):
        found.append("phases of the run")
    found += [f"format.{key}" for key in flow if key not in ("activation", "error", "value")]
    known = {"products", "format", "weights", "recipe"}
    others = {*chosen, *given} - known
    return (*found, *sorted(others))


def products_of(choice: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """Of a file of conf/products and what the recipe says besides; `value` fills in all slots."""
    found = {**({} if choice == "none" else _read("products", choice)), **own}
    value = found.pop("value", None)
    found.pop("defaults", None)
    filled = {key: _filled(node, value) for key, node in found.items()}
    return filled if value is None else {**dict.fromkeys(_SLOTS, value), **filled}


def _filled(node: Any, value: Any) -> Any:
    if isinstance(node, Mapping):
        return {key: _filled(each, value) for key, each in node.items()}
    return value if node == "${products.value}" else node


def _flow(choice: str | None) -> dict[str, Any]:
    if choice in (None, "fp32"):
        return {}
    value = _read("format", str(choice)).get("value", choice)
    return {"activation": value, "error": value}


def _read(group: str, name: str) -> dict[str, Any]:
    found: Any = yaml.safe_load((_CONF / group / f"{name}.yaml").read_text(encoding="utf-8"))
    return found or {}
