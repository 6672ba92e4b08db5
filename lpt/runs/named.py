"""A format of one's own by the name of its yaml: `conf/format/NAME.yaml` is the only list of them that there is.

Its `value` is a list of valid bits, or a `_target_` with what it takes. Wherever a configuration asks for a format, the
name stands for that value, which is put in its place, so that a run's config.yaml says what it was.
"""

from __future__ import annotations

from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict

from ..errors import UserError
from ..report.stored import Loader
from .build import build
from .messages import CONF

GROUPS = ("format", "products", "weights")
# Keys of these groups, and of their rules, whose value is a format.
KEYS = ("value", "activation", "error", "gradient", "format", "x", "w", "dgrad_e", "dgrad_w", "wgrad_e", "wgrad_x")


def spelt_out(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with the names of formats of one's own replaced in its `GROUPS`.

    Raises:
        UserError: the yaml of a format has no `value`.
    """
    return {key: _within(value) if key in GROUPS else value for key, value in config.items()}


def spell_out(cfg: DictConfig) -> DictConfig:
    """As `spelt_out`, in place."""
    before: Any = OmegaConf.to_container(cfg, resolve=False)
    after = spelt_out(before)
    with open_dict(cfg):
        for key in GROUPS:
            if after.get(key) != before.get(key):
                cfg[key] = after[key]
    return cfg


def shown(spec: Any) -> str:
    """What people call the format or scheme that a configuration asks for: its `name`, or else its class.

    Raises:
        UserError: it cannot be built.
    """
    spec = stands_for(OmegaConf.to_container(spec, resolve=True) if OmegaConf.is_config(spec) else spec)
    if isinstance(spec, dict) and "_target_" in spec:
        return str(getattr(built(spec), "name", None) or spec["_target_"].rpartition(".")[2])
    return spec if isinstance(spec, str) else "_".join(map(str, spec))


def built(spec: Any) -> Any:
    """The object that a `_target_` names; anything else as it is."""
    return build("format", OmegaConf.create(spec)) if isinstance(spec, dict) and "_target_" in spec else spec


def _within(node: Any) -> Any:
    if isinstance(node, dict):
        return {k: stands_for(v) if k in KEYS and isinstance(v, str) else _within(v) for k, v in node.items()}
    return [_within(item) for item in node] if isinstance(node, list) else node


def stands_for(name: Any) -> Any:
    """The value of the yaml of this name; the name itself if there is none, or none that says more."""
    file = CONF / "format" / f"{name}.yaml"
    if not isinstance(name, str) or "/" in name or "$" in name or not file.is_file():
        return name
    content = yaml.load(file.read_text(encoding="utf-8"), Loader)  # a SafeLoader, by libyaml if it is there
    if not isinstance(content, dict) or "value" not in content:
        raise UserError(f"{file} has no `value`: a format's name, a list of valid bits, or a _target_ with its keys")
    return name if content["value"] in ("???", name) else content["value"]


def names(cfg: DictConfig, choices: dict[str, str]) -> dict[str, str]:
    """What people call the model, data, format and weights of a run."""

    kinds = [shown(cfg.format[kind]) for kind in ("activation", "error", "gradient")]
    weights = choices["weights"]
    if weights == "custom":
        parts = [cfg.weights.scheme, cfg.weights.format, cfg.weights.width]
        weights = "_".join(shown(p) if not isinstance(p, float) else str(p) for p in parts if p is not None)
    groups = {group: str(choices.get(group) or "none") for group in ("products", "remedy", "recipe")}
    more = {group: name for group, name in groups.items() if name not in ("none", "None")}
    if "recipe" in more and more.get("products") == "custom":
        del more["products"]  # which are the recipe's
    return {
        "model": str(cfg.model.get("name") or choices["model"]),
        "data": choices["data"],
        "format": kinds[0] if len(set(kinds)) == 1 else "+".join(kinds),
        "weights": weights,
        **more,
    }
