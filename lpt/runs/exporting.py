"""A run's network as a file for others, checked by reading it back, and a card beside it that says what it is."""

from __future__ import annotations

import copy
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ..data.base import ImageData
from ..dataflow import attach_, attach_products_
from ..errors import UserError
from ..exchange import export, load_exported
from ..exchange.loading import EXAMPLE
from ..places import place
from ..tasks.task import Task
from . import onnx, program, saved
from .build import build, maker, told
from .evaluation import stored, take_scales
from .experiment import quiet
from .folder import RunFolder
from .parts import make_quantization, make_task

ABOUT = (
    "model",
    "data",
    "format",
    "weights",
    "products",
    "remedy",
    "recipe",
    "seed",
    "epochs",
    "steps",
    "git_commit",
    "versions",
)

WAYS = {".onnx": onnx.written, ".pt2": program.written}  # other than safetensors, by the end of the file's name
KIND = "safetensors; metadata under `lpt`, checksum under `sha256`"
MEASURED = "Measured on the validation part, by the run and again by this file: the same numbers."
LOAD = (
    "Load it with `lpt.load_exported({})`; or decode it yourself: value = table[code] * scale, with `table`, "
    "`packing` and `view` from the metadata."
)


def export_run(run: str, to: str | None = None, trust: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """Write the network of a run as a safetensors file, or in another way out, with its card (.md) beside it.

    Args:
        run: a run's folder (its best checkpoint), or a checkpoint in it.
        trust: packages of which the run's configuration may call something.
        to: the file; by default model.safetensors in the run's folder. FILE.onnx is written as ONNX, FILE.pt2 as a
            program of torch.export.

    Returns:
        The file, and what it says of itself. The metrics of the file, read back, are in `about`; of another way out
        `way` says how it computes.

    Raises:
        UserError: no such run; or the file, read back, does not compute what the run computes.
    """
    quiet()
    checkpoint = saved.find(run, key="RUN")
    folder = checkpoint.resolve().parents[1]
    file = place(to, "to") if to else folder / "model.safetensors"
    way = WAYS.get(file.suffix)
    if file.suffix not in ("", ".safetensors", *WAYS):
        raise UserError(f"to={file}: give a file that ends in .safetensors, {' or '.join(WAYS)}")
    state = saved.read(checkpoint)
    cfg = stored(checkpoint, state, trust)
    if (other := cfg.get("parametrization")) is not None:
        raise UserError(
            f"{folder}: a {other._target_.rpartition('.')[2]} stands in its weights' place, which a file of the plain "
            "network cannot hold: evaluate the run with scripts/evaluate.py, or load its checkpoint into such a model"
        )
    task = make_task(cfg, build("trainer", cfg.trainer))
    handles = _as_trained(task, cfg, state, checkpoint)
    own = task.measured("val")
    summary = RunFolder(folder).summary()
    about = {key: summary[key] for key in ABOUT if summary.get(key) is not None}
    about |= {"checkpoint": checkpoint.name, "source": task.data.source, "metrics": own}
    with TemporaryDirectory() as between:
        codes = Path(between) / "model.safetensors" if way else file
        try:
            said = export(task.model, *handles, to=codes, builds=_builds(cfg, task), about=about)
            back = _check(codes, said, task, cfg, own)
            if way:
                said["way"] = way(codes, file, task, back)
        except OSError as error:
            raise UserError(
                f"{file} cannot be written ({error.strerror or error}): give another file by to="
            ) from error
    file.with_suffix(".md").write_text(card(file, said), encoding="utf-8")
    return file, said


def _as_trained(task: Task, cfg: DictConfig, state: dict[str, Any], checkpoint: Path) -> tuple[Any, Any, Any]:
    """Put a checkpoint's weights and scales into the task's model; its handles of weights, data flow and products."""
    quantization = make_quantization(cfg)
    kept = saved.callback_state(state, "Quantization")
    saved.fit(task.model, saved.weights_of(state, masters=False), checkpoint)
    with told("format, products or weights"):
        weights = quantization.make_weights(task.model)
        if kept.get("weights"):
            weights.load_state_dict(kept["weights"])
        saved.fit(task.model, saved.weights_of(state, masters=False), checkpoint)  # averages, where they are kept
        flow = attach_(task.model, quantization.make_flow)
        if quantization.make_products.asked:
            attach_products_(task.model, quantization.make_products)
    take_scales(flow, kept, task)
    task.model.eval()
    return weights, flow, quantization.make_products


def _builds(cfg: DictConfig, task: Task) -> dict[str, Any] | None:
    """How to build the model again; None if it is not one of lpt's own."""
    node: Any = OmegaConf.to_container(cfg.model, resolve=True)
    if not str(node["_target_"]).startswith("lpt.models."):
        print(f"{node['_target_']} is not part of lpt: load_exported must be given a model to fill", file=sys.stderr)
        return None
    builds = {**node, **task.data.model_arguments()}
    if isinstance(task.data, ImageData) and EXAMPLE in inspect.signature(maker("model", cfg.model)).parameters:
        builds[EXAMPLE] = [2, *task.data.shape]
    return builds


def _check(file: Path, said: dict[str, Any], task: Task, cfg: DictConfig, own: dict[str, float]) -> nn.Module | None:
    """Read the file back and evaluate it; a fresh model, for a file that does not say how to build its own."""
    before = task.model
    fresh = None if said["model"] is not None else make_task(cfg, build("trainer", cfg.trainer)).model
    task.model = load_exported(file) if fresh is None else load_exported(file, copy.deepcopy(fresh))
    again = task.measured("val")
    task.model = before
    if again != own:
        file.unlink()
        raise UserError(
            f"{file}, read back, gives {again}, and the run {own}: it was removed, since it is not the run's"
        )
    return fresh


def card(file: Path, said: dict[str, Any]) -> str:
    """A model card in Markdown: what the file holds, how good it is, on what data, and what it is not good for."""
    about = said["about"]
    size = file.stat().st_size
    load = LOAD.format("FILE" if said["model"] else "FILE, MODEL")
    way = said.get("way") or {"kind": KIND, "compared": MEASURED, "use": load}
    count = sum(torch.Size(w["of"]).numel() for w in said["weights"].values())
    formats = sorted({f"{w['format']} ({w['bits']:g} bits a value)" for w in said["weights"].values()})
    places = sorted({place["format"] for place in said["activations"].values()})
    lines = [
        f"# {about.get('model', 'A network')} on {about.get('data', 'its data')}", "",
        f"- File: `{file.name}`, {size:,} bytes, {way['kind']}",
        f"- Quantized weights: {count:,} in {', '.join(formats) or 'no format: all are stored as they are'}",
        f"- Activations: {', '.join(places) or 'not rounded'}",
        f"- Operands of products: {json.dumps(said['products']) if said['products'] else 'not rounded further'}",
        f"- Data: {about['source']}", "",
        "| metric | value |", "|---|---|",
        *(f"| {name} | {value:.6g} |" for name, value in about["metrics"].items()), "",
        way["compared"], "",
        "| run | |", "|---|---|", *(f"| {key} | {about[key]} |" for key in (*ABOUT, "checkpoint") if key in about), "",
        way["use"], "",
        "Not good for: data unlike the above; judgement of a format by one seed; speed, since the arithmetic of the "
        "formats is simulated in float32.", "",
    ]  # fmt: skip
    if said["stored"]:
        why = "; ".join(f"{name}: {reason}" for name, reason in said["stored"].items())
        lines.insert(6, f"- Stored as they are, not as codes: {why}")
    return "\n".join(lines)
