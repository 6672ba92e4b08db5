"""`load_exported`: a file that `export` wrote becomes a plain module again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import models
from ..dataflow import Products, attach_products_
from ..errors import UserError
from ..weights.contraction import InFeatures
from ..weights.step import Channels
from . import rounding
from .exporting import KEY, SUM, VERSION, digest
from .held import hold_, share_
from .packed import decoded, unpack

VIEWS: dict[str, Any] = {"Channels": Channels, "InFeatures": InFeatures}
OTHERS = ("timm", "torchvision")  # whose options are numbers here, so that none names a file or a download
EXAMPLE = "example"  # of a model that is traced: the shape of its input


def load_exported(file: str | Path, model: nn.Module | None = None, *, codes: bool = False) -> nn.Module:
    """The model of a file that `export` wrote, in evaluation mode, with the values that it had.

    It has no hooks: its modules round in their own forward what was rounded in the run.

    Args:
        file: the file.
        model: one of the same architecture, which is filled and returned; needed where the file does not say how to
            build it, as it does for runs of models of `lpt.models`.
        codes: keep quantized weights as codes in memory and decode them wherever they are used; not those of LSTMs and
            of `nn.MultiheadAttention`. The model is then for evaluation, and its state dict has other names.

    Raises:
        UserError: no such file, or a damaged or foreign one; a model that does not fit.
        ModuleNotFoundError: safetensors is not installed.
    """
    told, tensors = read(file)
    try:
        filled = _built(told["model"]) if model is None else model
        filled.load_state_dict(state(told, tensors))
        if codes:
            _hold(filled, told, tensors)
        if told["products"] is not None:
            attach_products_(filled, Products(**told["products"]))
        rounding.apply_(filled, told["activations"])  # around the products' forward
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{file} does not hold what it says: {' '.join(str(error).split())}; export the run anew"
        ) from error
    return filled.eval()


def read(file: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file says of itself, and its tensors.

    Raises:
        UserError: no such file, or none that `export` wrote.
    """
    metadata, tensors = opened(file)
    try:
        told = json.loads(metadata[KEY])
        if metadata[SUM] != digest(metadata[KEY], tensors):
            raise UserError(f"{file} is damaged: its bytes are not those that were written; export the run anew")
        if told["version"] > VERSION:
            raise UserError(f"{file} was written by a later lpt (its version is {told['version']}): install that one")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is a safetensors file of another program: give one that export wrote") from error
    return told, tensors


def opened(file: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of any safetensors file.

    Raises:
        UserError: no such file, or none that can be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), "pt") as found:
            return found.metadata() or {}, {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} is not a safetensors file that can be read ({error}): give another file") from error


def state_in(file: str | Path) -> dict[str, Tensor]:
    """The state dict of any safetensors file; of one that `export` wrote, its weights decoded.

    Raises:
        UserError: no such file, or a damaged one.
    """
    metadata, tensors = opened(file)
    return state(*read(file)) if KEY in metadata else tensors


def state(told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict: weights decoded, in their shapes and dtypes."""
    found = {name: _weight(own_of(name, tensors), says) for name, says in told["weights"].items()}
    used = {key for name in found for key in tensors if key.startswith(f"{name}.")}
    found |= {name: t for name, t in tensors.items() if name not in used}
    return found | {name: found[other] for name, other in told["aliases"].items()}


def own_of(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What belongs to the weight `name`, by the ending of its name."""
    return {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}


def _weight(tensors: Mapping[str, Tensor], says: Mapping[str, Any]) -> Tensor:
    return weight_as(unpack(tensors, says).to(_dtype(says["dtype"])), says)


def _again(tensors: Mapping[str, Tensor], says: Mapping[str, Any]) -> Tensor:
    """As `_weight`, which has found them to fit."""
    return weight_as(decoded(tensors, says).to(_dtype(says["dtype"])), says)


def weight_as(values: Tensor, says: Mapping[str, Any]) -> Tensor:
    """`values`, which lie as the weight's view shows it, in the weight's own shape."""
    weight = values.new_empty(says["of"])
    view = dict(says["view"])
    seen = VIEWS[view.pop("kind")](**view).view(weight)
    if seen.shape != values.shape:
        raise ValueError(f"{list(values.shape)} values for a weight of {list(seen.shape)}")
    seen.copy_(values)
    return weight


def _hold(model: nn.Module, told: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    for name, says in told["weights"].items():
        others = [alias for alias, first in told["aliases"].items() if first == name]
        if hold_(model, name, own_of(name, tensors), partial(_again, says=says)):
            for alias in others:
                share_(model, alias, name)


def _dtype(name: str) -> torch.dtype:
    dtypes = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.float64, torch.bfloat16, torch.float16)}
    return dtypes[name]


def _built(builds: Mapping[str, Any] | None) -> nn.Module:
    """Call the model of `lpt.models` that the file names; nothing else is called.

    Raises:
        UserError: it names none, or something else.
    """
    if builds is None:
        raise UserError("the file does not say how to build its model: give load_exported(file, model) one to fill")
    target, options = str(builds["_target_"]), {k: v for k, v in builds.items() if k != "_target_"}
    name = target.removeprefix("lpt.models.")
    if name not in models.__all__ or name == target:
        raise UserError(
            f"the file names {target!r} as its model; only those of lpt.models are called: give one to fill"
        )
    if name in OTHERS:
        odd = [
            k
            for k, v in options.items()
            if k not in ("name", EXAMPLE) and not isinstance(v, (bool, int, float, type(None)))
        ]
        odd += [k for k in ("pretrained", "checkpoint_path") if options.get(k)]
        if odd or not str(options.get("name", "")).replace("_", "").replace(".", "").isalnum():
            raise UserError(
                f"the file gives {odd[0] if odd else 'name'} to {name}, which is not done: give a model to fill"
            )
    if EXAMPLE in options:
        options[EXAMPLE] = torch.rand(options[EXAMPLE], generator=torch.Generator().manual_seed(0))
    built: nn.Module = getattr(models, name)(**options)
    return built
