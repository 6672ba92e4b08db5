"""`export`: a trained model, its quantized weights and its data flow become one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import __version__
from ..dataflow import Flow, Products, Slot
from ..weights import QuantizedWeights
from .packed import Unpackable, pack
from .rounding import described

VERSION = 1
KEY, SUM = "lpt", "sha256"  # of the metadata: what the file says, and a sum over that and the tensors


def export(
    model: nn.Module,
    weights: QuantizedWeights | None = None,
    flow: Flow | None = None,
    products: Products | None = None,
    *,
    to: str | Path,
    builds: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write a model as a safetensors file: quantized weights as codes and scales, the rest as it is.

    Args:
        model: the model, as it was trained; it is not changed.
        weights: its `QuantizedWeights`, or what `attach_weights_` returned; None, no weight is quantized.
        flow: what `attach_` returned: activations are rounded as they are now, at the scales they have.
        products: what its products' operands are rounded to.
        to: the file, which is replaced if it is there.
        builds: how to build the model: `{"_target_": "lpt.models.ResNet", "depth": 8, ...}`; without it
            `load_exported` must be given the model.
        about: anything that JSON holds, for readers: metrics, data, commit.

    Returns:
        What the file says of itself; `stored` tells, by weight, why one that is quantized is not stored as codes.

    Raises:
        ModuleNotFoundError: safetensors is not installed.
        OSError: the file cannot be written.
    """
    from safetensors.torch import save

    if weights is not None:
        weights.follow()
    tensors: dict[str, Tensor] = {}
    says: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    whole: dict[str, str] = {}
    first: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, value in model.state_dict().items():
        value = value.detach()
        place = (value.data_ptr(), value.shape, value.stride())
        if value.numel() and place in first:
            aliases[name] = first[place]
            continue
        first[place] = name
        try:
            if weights is not None and name in weights.params:
                tensors |= _packed(weights, name, value, says)
                continue
        except Unpackable as error:
            whole[name] = str(error)
        tensors[name] = value.contiguous().cpu().clone()
    told = {
        "version": VERSION, "lpt": __version__, "model": None if builds is None else dict(builds), "weights": says,
        "aliases": aliases, "stored": whole, "activations": {} if flow is None else described(flow),
        "products": forward_of(products) if products is not None and products.asked else None,
        "about": dict(about or {}),
    }  # fmt: skip
    text = json.dumps(told)
    Path(to).write_bytes(save(tensors, metadata={KEY: text, SUM: digest(text, tensors)}))
    return told


def digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of what a file says and of its tensors' bytes, by name."""
    sum = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        sum.update(name.encode())
        sum.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return sum.hexdigest()


def _packed(weights: QuantizedWeights, name: str, value: Tensor, says: dict[str, Any]) -> dict[str, Tensor]:
    seen: Any = weights.seen(name)
    found = pack(seen.view(value).cpu(), weights.scheme.format, weights.scales[name].cpu())
    says[name] = {
        **found.says, "dtype": str(value.dtype).removeprefix("torch."), "of": list(value.shape),
        "view": {"kind": type(seen).__name__, **asdict(seen)},
    }  # fmt: skip
    return {f"{name}.{end}": tensor for end, tensor in found.tensors.items()}


def forward_of(products: Products) -> dict[str, Any]:
    """What `Products` must be given for the same forward pass, as plain values."""
    plain: dict[str, Any] = {"x": _slot(products.x), "w": _slot(products.w)}
    rules = [{key: _slot(v) if key != "pattern" else v for key, v in rule.items()} for rule in products.rules]
    plain["rules"] = [{k: v for k, v in rule.items() if k in ("pattern", "x", "w")} for rule in rules]
    keys = ("skip", "kinds", "first", "last", "skip_first", "skip_last", "scale_rule", "room", "seed")
    for key in keys:
        value = getattr(products, key)
        plain[key] = list(value) if isinstance(value, tuple) else value
    return plain


def _slot(slot: Any) -> dict[str, Any] | None:
    if not isinstance(slot, Slot):
        return None
    turn = None if slot.turn is None else {f.name: getattr(slot.turn, f.name) for f in fields(slot.turn)}
    return {"format": slot.grid.name, "rounding": slot.rounding, "transform": turn, "gradient": slot.gradient}
