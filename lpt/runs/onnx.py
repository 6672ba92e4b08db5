"""A run's network as ONNX, run with onnxruntime over the validation part beside the network that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..exchange import to_onnx
from ..tasks.task import Task


class Session(nn.Module):
    """An ONNX file as a module; counts predictions that are not those of `beside`."""

    def __init__(self, file: Path, beside: nn.Module) -> None:
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.beside = beside
        self.other, self.all = 0, 0
        self.furthest = 0.0

    def forward(self, *inputs: Tensor) -> Tensor:
        names = [own.name for own in self.session.get_inputs()]
        given = {name: x.cpu().numpy() for name, x in zip(names, inputs, strict=True)}
        found = torch.from_numpy(self.session.run(None, given)[0])
        wanted = self.beside(*inputs).cpu()
        self.other += int((found.argmax(-1) != wanted.argmax(-1)).sum())
        self.all += wanted[..., 0].numel()
        self.furthest = max(self.furthest, float((found - wanted).abs().max()))
        return found


def written(codes: Path, file: Path, task: Task, fresh: nn.Module | None) -> dict[str, Any]:
    """Write as ONNX what the file `codes` holds, and compare.

    Args:
        codes: a file of `export`.
        file: the ONNX file.
        task: the run's, whose data it is compared on.
        fresh: a model to fill, where `codes` does not say how to build it.

    Returns:
        {"onnx": {"types": names of ONNX's types, "metrics": as onnxruntime computes them, "compared": one sentence}}.

    Raises:
        UserError: it cannot be ONNX; nothing is written.
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is not installed.
    """
    import onnxruntime.capi.onnxruntime_pybind11_state  # before anything is written

    types = to_onnx(codes, _taken(task), to=file, model=fresh)
    before = task.model
    task.model = session = Session(file, before)
    try:
        metrics = task.measured("val")
    except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
        file.unlink()
        raise UserError(
            "batches of this data have no one shape, and the ONNX graph has: give to=FILE.safetensors"
        ) from error
    finally:
        task.model = before
    told = ", ".join(f"{name} {value:.6g}" for name, value in metrics.items())
    compared = (
        f"onnxruntime {onnxruntime.__version__} on the validation part: {told}; {session.other} of {session.all} "
        f"predictions are others than lpt's, and no output is further from it than {session.furthest:.3g}."
    )
    return {"onnx": {"types": sorted(set(types.values())), "metrics": metrics, "compared": compared}}


def _taken(task: Task) -> list[Tensor]:
    """What the task gives to its model, two examples of it.

    Raises:
        UserError: not tensors alone, or the model does not return one tensor.
    """
    calls: list[tuple[Any, ...]] = []
    hook = task.model.register_forward_hook(
        lambda module, args, kwargs, out: calls.append((args, kwargs, out)), with_kwargs=True
    )
    try:
        with torch.no_grad():
            task.validation_step(list(next(iter(task.val_batches()))), 0)
            task.collected()
    finally:
        hook.remove()
    args, kwargs, out = calls[0]
    if len(calls) > 1 or kwargs or not all(isinstance(x, Tensor) for x in (*args, out)):
        raise UserError("only networks that make one tensor of tensors, once an example, leave as ONNX, and this is "
                        "called otherwise: its codes leave by to=FILE.safetensors")  # fmt: skip
    return [x[:1].repeat_interleave(2, 0) for x in args]
