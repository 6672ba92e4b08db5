"""A run's network as a program of torch.export, run over the validation part beside the network it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..exchange import to_program
from ..tasks.task import Task
from .beside import compared, shapes_differ, taken


def written(codes: Path, file: Path, task: Task, fresh: nn.Module | None) -> dict[str, Any]:
    """Write as a program what the file `codes` holds, load it as others will, and compare; see `onnx.written`.

    Raises:
        UserError: it cannot be traced; nothing is written.
    """
    to_program(codes, taken(task), to=file, model=fresh)
    program = torch.export.load(file).module()

    def run(inputs: tuple[Tensor, ...]) -> Tensor:
        try:
            out: Tensor = program(*(x.cpu() for x in inputs))
        except (RuntimeError, AssertionError) as error:
            file.unlink()
            raise shapes_differ(inputs) from error
        return out

    return {
        **compared(run, task, f"torch.export in torch {torch.__version__}"),
        "kind": "a program of torch.export; what it says of itself in its extra file `lpt.json`",
        "use": "Run it with `torch.export.load(FILE).module()`, which needs torch alone.",
    }
