"""A run's network as ONNX, run with onnxruntime over the validation part beside the network that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..exchange import to_onnx
from ..tasks.task import Task
from .beside import Run, compared, shapes_differ, taken

PLAIN = {"session.disable_quant_qdq": "1"}  # of onnxruntime's settings: compute the graph as it is written
WHY = (
    "Weights and rules of rounding are the same; sums and normalizations are computed in other steps, so that a value "
    "at a rounding edge may go to its neighbour."
)
FUSED = "By default it fuses operators, and seems to round biases to multiples of the product's unit."


def written(codes: Path, file: Path, task: Task, fresh: nn.Module | None) -> dict[str, Any]:
    """Write as ONNX what the file `codes` holds, and compare.

    Args:
        codes: a file of `export`.
        file: the ONNX file.
        task: the run's, whose data it is compared on.
        fresh: a model to fill, where `codes` does not say how to build it.

    Returns:
        As `compared`, and {"kind": of the file, "use": how to run it}.

    Raises:
        UserError: it cannot be ONNX; nothing is written.
        ModuleNotFoundError: onnx, onnxscript or onnxruntime is not installed.
    """
    import onnxruntime
    import onnxruntime.capi.onnxruntime_pybind11_state as errors  # before anything is written

    types = sorted(set(to_onnx(codes, taken(task), to=file, model=fresh).values()))

    def run_with(settings: dict[str, str]) -> Run:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        for key, value in settings.items():
            options.add_session_config_entry(key, value)
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        names = [own.name for own in session.get_inputs()]

        def run(inputs: tuple[Tensor, ...]) -> Tensor:
            try:
                given = {name: x.cpu().numpy() for name, x in zip(names, inputs, strict=True)}
                return torch.from_numpy(session.run(None, given)[0])
            except errors.InvalidArgument as error:
                file.unlink()
                raise shapes_differ(inputs) from error

        return run

    name = f"onnxruntime {onnxruntime.__version__}"
    plain = compared(run_with(PLAIN), task, f"{name} with {'='.join(*PLAIN.items())}", WHY)
    fused = compared(run_with({}), task, f"{name} as it is by default", FUSED)
    return {
        **plain,
        "compared": f"{plain['compared']}\n\n{fused['compared']}",
        "kind": "ONNX, opset 21",
        "use": f"Run it with onnxruntime; types of the weights: {', '.join(types)}",
    }
