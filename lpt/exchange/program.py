"""`to_program`: what `export` wrote becomes a program of `torch.export`, which torch runs without lpt.

Its graph has torch's own operators alone. Quantized weights stay codes and scales in it, as they are in the file, and
are decoded where they are used; activations and operands are rounded by the arithmetic that lpt rounds them by. So any
format leaves, and what the program computes are the same operators on the same values, in the same order.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .loading import load_exported, read

SAID = "lpt.json"  # the extra file in which a program holds what the file of codes says of itself


def to_program(file: str | Path, inputs: Sequence[Tensor], *, to: str | Path, model: nn.Module | None = None) -> Any:
    """Write the network of a file of `export` as a program of `torch.export`, for `torch.export.load`.

    The first dimension of what it takes, the batch, may be of any size.

    Args:
        file: the safetensors file.
        inputs: what the network takes, as examples, at least two in a batch.
        to: the program's file (.pt2), which is replaced if it is there.
        model: see `load_exported`.

    Returns:
        The `torch.export.ExportedProgram`.

    Raises:
        UserError: the network cannot be traced; nothing is written.
        OSError: the file cannot be written.
    """
    told, _ = read(file)
    plain = load_exported(file, model, codes=True)
    program = traced(plain, tuple(inputs))
    whole = io.BytesIO()
    torch.export.save(program, whole, extra_files={SAID: json.dumps(told)})
    Path(to).write_bytes(whole.getvalue())  # which, unlike torch's writer, raises an OSError where it cannot
    return program


def traced(model: nn.Module, inputs: tuple[Tensor, ...]) -> Any:
    """The program of a module in evaluation mode, without a word about the machine it was traced on.

    Raises:
        UserError: it cannot be traced.
    """
    shapes = tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about constants, which the scales of activations are
        try:
            program = torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
        except (RuntimeError, ValueError, TypeError) as error:  # all that its many passes raise
            raise UserError(
                f"torch.export cannot trace this network: {str(error).strip().splitlines()[0]}; its codes leave by "
                "to=FILE.safetensors"
            ) from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program
