"""Reading what runs have left: `init_from=` and `scripts/evaluate.py` find their weights here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..callbacks.sealing import Damaged, no_file, opened
from ..errors import UserError
from ..exchange.layouts import translated
from ..exchange.loading import state_in
from ..places import place

PREFIX = "model."  # the task's name for its network
COMPILED = "_orig_mod."  # torch.compile's name for what it has compiled, anywhere within a name
STATES = ("state_dict", "model", "model_state_dict")  # under which other programs keep a state dict
INDEX = ".safetensors.index.json"  # the end of the name of a list of files that hold one state dict


def find(path: str | Path, best: bool = False, key: str = "init_from") -> Path:
    """The checkpoint that `path` means: a file, or a run's folder, whose last checkpoint it is (or best, if asked).

    Behind the folder, `/best` and `/last` choose.

    Args:
        key: what the configuration calls it, for the message.

    Raises:
        UserError: there is none.
    """
    path = place(path, key)
    if path.name in ("best", "last") and (path.parent / "checkpoints").is_dir():
        path, best = path.parent, path.name == "best"
    names = ("best.ckpt", "last.ckpt") if best else ("last.ckpt", "best.ckpt")
    if path.is_file():
        return path
    if path.is_dir():
        for name in names:
            candidate = path / "checkpoints" / name
            if candidate.parent.is_dir() and (why := no_file(candidate)):
                raise UserError(f"{candidate}: {why}{_whole_beside(candidate)}")
            if candidate.is_file():
                if name != names[0]:
                    print(f"there is no {names[0]} in {candidate.parent}: {name} is taken", file=sys.stderr)
                return candidate
    raise UserError(
        f"no checkpoint at {path}: give the folder of a run (outputs/...) that has saved one, "
        "or a file with a state dict"
    )


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of a run, a plain state dict, or a safetensors file (with quantized weights decoded), on the CPU.

    Raises:
        UserError: the file is neither, or it is damaged.
    """
    if path.suffix == ".safetensors":
        return state_in(path)
    if path.name.endswith(INDEX):
        named = _json(path).get("weight_map")
        files = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
        return {name: value for file in files for name, value in state_in(path.parent / file).items()}
    try:
        saved, sealed = opened(path)
    except Damaged as error:
        if error.__cause__ is None or (path.suffix == ".ckpt" and (path.parent.parent / "summary.json").is_file()):
            raise UserError(f"{path} is damaged: {error}{_whole_beside(path)}") from error
        why = f"neither a checkpoint of a run nor a state dict that torch.load reads ({type(error.__cause__).__name__})"
        hint = "; if it holds other objects beside its tensors, save the state dict alone"
        raise UserError(f"{path} is {why}{hint}") from error
    if not sealed and isinstance(saved, dict) and "pytorch-lightning_version" in saved:
        print(f"{path} has no checksum (an older version wrote it); its parts fit their CRCs", file=sys.stderr)
    if not isinstance(saved, dict):
        raise UserError(f"{path} holds a {type(saved).__name__}; a checkpoint of a run or a state dict is needed")
    return saved


def callback_state(saved: dict[str, Any], name: str) -> dict[str, Any]:
    """The state of the callback class `name` in a checkpoint; empty if it was not there."""
    states: dict[str, Any] = saved.get("callbacks", {})
    return next((state for key, state in states.items() if key.split("{")[0] == name), {})


def weights_of(saved: dict[str, Any], masters: bool) -> dict[str, Tensor]:
    """The network's state dict; with `masters`, full-precision masters in place of quantized weights."""
    state = _held(saved)
    if any(key.startswith(PREFIX) for key in state):
        state = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    if masters:
        full = callback_state(saved, "Quantization").get("weights", {}).get("masters", {})
        for one, other in _tied(state):  # a weight of two names has its master under one of them
            if one in full or other in full:
                full = {one: full.get(other), other: full.get(one), **full}
        state = {**state, **full}
    return state


def load(model: nn.Module, path: str | Path) -> Path:
    """Start `model` from a run or a file with weights: from the masters where there are some. Returns the file.

    A GPT-2 or a Llama in Hugging Face's layout is taken under lpt's names; its config.json, if it lies beside the file,
    must fit as well.

    Raises:
        UserError: no such file, or its weights do not fit the model.
    """
    file = find(path)
    saved = read(file)
    beside = file.parent / "config.json"
    ours = translated(model, _held(saved), lambda: _json(beside) if beside.is_file() else {}, file)
    if ours is not None:
        print(f"{file}: in Hugging Face's layout; its weights are taken under lpt's names", file=sys.stderr)
        if not beside.is_file():
            print(f"without a config.json beside {file.name}, heads and epsilon are the model's", file=sys.stderr)
    fit(model, weights_of(saved, masters=True) if ours is None else dict(ours), file)
    return file


def _held(saved: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict in what a file holds.

    Raises:
        UserError: something in it is no tensor under a name.
    """
    state: dict[Any, Any] = next((saved[key] for key in STATES if isinstance(saved.get(key), dict)), saved)
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(
                f"{name!r} ({type(value).__name__}) is not of a state dict: give a file of tensors under their names"
            )
    return state


def _json(path: Path) -> dict[str, Any]:
    """What a file of JSON says.

    Raises:
        UserError: it is none, or no object.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON that can be read ({error}): give another file") from error
    if not isinstance(said, dict):
        raise UserError(f"{path} holds a {type(said).__name__}, and an object of JSON is needed: give another file")
    return said


def fit(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """`model.load_state_dict(state)`, with a message that names what does not fit.

    A prefix that all names of `state` have and the model's do not, such as DDP's `module.`, is left out, as
    is torch.compile's `_orig_mod.` anywhere; both are told.

    Raises:
        UserError: names or shapes differ.
    """
    own = model.state_dict()
    if own.keys() != state.keys() and any(COMPILED in key for key in state):
        print(f"{source}: {COMPILED} in its names, of torch.compile, is left out", file=sys.stderr)
        state = {key.replace(COMPILED, ""): value for key, value in state.items()}
    prefix = shared_prefix(state)
    cut = max(["", *_heads(prefix)], key=lambda head: len({key.removeprefix(head) for key in state} & own.keys()))
    if cut:
        print(f"{source}: all names begin with {cut}, which is left out", file=sys.stderr)
        state = {key.removeprefix(cut): value for key, value in state.items()}
    shapes = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}" for k in own.keys() & state.keys()
        if state[k].shape != own[k].shape
    ]  # fmt: skip
    lacks, more = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if odd := [*lacks, *more, *shapes]:
        some = [f"it lacks {_some(lacks)}"] * bool(lacks) + [f"it has {_some(more)}"] * bool(more)
        begin = f"; all its names begin with {prefix}" if prefix and not cut and more else ""
        raise UserError(
            f"the weights in {source} are of another model: {len(odd)} entries differ "
            f"({'; '.join([*some, *sorted(shapes)[:3]])}{begin}); "
            "use the model= (and a data set of as many classes) that they were trained with"
        )
    for name, other in _tied(own):
        if not torch.equal(state[name].double(), state[other].double()):
            raise UserError(
                f"the weights in {source} are of another model: {other} and {name} differ, and are one weight in this "
                "one (model.tied=false of a language model makes them two)"
            )
    model.load_state_dict(state)


def _tied(own: dict[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs of names of one weight."""
    first: dict[tuple[int, torch.Size], str] = {}
    pairs = [(name, first.setdefault((t.data_ptr(), t.shape), name)) for name, t in own.items() if t.data_ptr()]
    return [(name, other) for name, other in pairs if name != other]


def _whole_beside(path: Path) -> str:
    """What to give in the place of a damaged checkpoint of a run."""
    whole = []
    for other in sorted(path.parent.glob("*.ckpt")):
        try:
            if other.name != path.name and opened(other):
                whole.append(str(other))
        except Damaged:
            continue
    return f"; whole is {' and '.join(whole)}: give it by its path" if whole else ""


def shared_prefix(names: Iterable[str]) -> str:
    """The modules, each with its dot, with which all names begin: `module.model.`, or nothing."""
    modules = [name.split(".")[:-1] for name in names]
    alike = takewhile(lambda parts: len(set(parts)) == 1, zip(*modules, strict=False))
    return "".join(f"{parts[0]}." for parts in alike)


def _heads(prefix: str) -> list[str]:
    """`a.`, `a.b.`, `a.b.c.` of `a.b.c.`"""
    parts = prefix.split(".")[:-1]
    return ["".join(f"{part}." for part in parts[: i + 1]) for i in range(len(parts))]


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
