"""Reading what runs have left: `init_from=` and `scripts/evaluate.py` find their weights here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

PREFIX = "model."  # the task's name for its network


def find(path: str | Path, best: bool = True) -> Path:
    """The checkpoint that `path` means: a file, or a run folder, whose best checkpoint (or last, if asked) it is.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    names = ("best.ckpt", "last.ckpt") if best else ("last.ckpt", "best.ckpt")
    for candidate in (path, *(path / "checkpoints" / name for name in names)):
        if candidate.is_file():
            return candidate
    raise UserError(
        f"no checkpoint at {path}: give the folder of a run (outputs/...) that has saved one, "
        "or a file with a state dict"
    )


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of a run, or a plain state dict, on the CPU.

    Raises:
        UserError: the file is neither.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        why = f"neither a checkpoint of a run nor a state dict that torch.load reads ({type(error).__name__})"
        raise UserError(f"{path} is {why}") from error
    if not isinstance(saved, dict):
        raise UserError(f"{path} holds a {type(saved).__name__}; a checkpoint of a run or a state dict is needed")
    return saved


def callback_state(saved: dict[str, Any], name: str) -> dict[str, Any]:
    """The state of the callback class `name` in a checkpoint; empty if it was not there."""
    states: dict[str, Any] = saved.get("callbacks", {})
    return next((state for key, state in states.items() if key.split("{")[0] == name), {})


def weights_of(saved: dict[str, Any], masters: bool) -> dict[str, Tensor]:
    """The network's state dict; with `masters`, full-precision masters in place of quantized weights."""
    state: dict[str, Tensor] = saved.get("state_dict", saved)
    if any(key.startswith(PREFIX) for key in state):
        state = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    if masters:
        state = {**state, **callback_state(saved, "Quantization").get("weights", {}).get("masters", {})}
    return state


def load(model: nn.Module, path: str | Path) -> Path:
    """Start `model` from a run or a file with weights: from the masters where there are some. Returns the file.

    Raises:
        UserError: no such file, or its weights do not fit the model.
    """
    file = find(path)
    fit(model, weights_of(read(file), masters=True), file)
    return file


def fit(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """`model.load_state_dict(state)`, with a message that names what does not fit.

    Raises:
        UserError: names or shapes differ.
    """
    own = model.state_dict()
    shapes = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in own.keys() & state.keys()
        if state[k].shape != own[k].shape
    ]  # fmt: skip
    odd = sorted(own.keys() ^ state.keys()) + sorted(shapes)
    if odd:
        some = "; ".join(odd[:3])
        raise UserError(
            f"the weights in {source} are of another model: {len(odd)} entries differ ({some}); "
            "use the model= (and a data set of as many classes) that they were trained with"
        )
    model.load_state_dict(state)
