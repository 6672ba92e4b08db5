"""A model that is run once more to see what its parts are, and what is said where that cannot be."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from .edge import Edge, InputEdge, is_value
from .places import Path, name_of
from .quantizer import Mode
from .spec import DataFlow
from .switching import products_off
from .tracing import Traced, Tracer, trace

NO_OPERAND = "enters no product as it is"
NEVER_CALLED = (
    "parts of the model ran, but never the model itself, eagerly, as model(x), so what is its input and which products "
    "are last was not seen: call model(x) once, eagerly, on a batch before you compile or train it (attach_ the module "
    "that you call), or give last= and input_arguments= (input='fp32' if only its parts are called)"
)


def look(
    model: nn.Module, entrance: InputEdge, own: Edge | None, mode: Mode, args: Any, kwargs: Any
) -> tuple[Traced, dict[str, bool]]:
    """What one pass without quantization shows; and each argument that can be an activation: has it infinities?

    `own`: the Edge behind the model itself, if it is a module that computes; the pass goes by no hook of it.
    """
    infinite: dict[str, bool] = {}

    def run(tracer: Tracer) -> None:
        def argument(x: Tensor, path: Path) -> Tensor:
            if not is_value(x):
                return x.clone()
            holds = not x.is_meta and bool(x.isinf().any())
            infinite[name_of(path)] = infinite.get(name_of(path), False) or holds
            return tracer.argument(x, name_of(path))

        own_args, own_kwargs = entrance.arguments.mapped(args, kwargs, argument)
        with mode.switched(on=False, tracer=tracer), products_off(model):
            output = model.forward(*own_args, **own_kwargs)
            if own is not None:
                own(model, own_args, output)

    return trace(model, run), infinite


def why_not(flow: DataFlow, entrance: InputEdge, place: str, infinite: bool, operand: bool) -> str:
    """Why an argument is left alone; "" if it is not."""
    if flow.input_arguments is not None:
        name = entrance.arguments.printed(place)
        named = any(fnmatch.fnmatchcase(name, n) for n in flow.input_arguments)
        return "" if named else "not among input_arguments"
    if infinite:
        return "holds infinities, as a mask does"
    return "" if place == "" or operand else NO_OPERAND


def choose(flow: DataFlow, entrance: InputEdge, infinite: dict[str, bool], operands: set[str]) -> None:
    """Say of each argument that a pass showed whether it is an activation."""
    chosen, first = entrance.chosen, not entrance.looked
    entrance.met |= infinite.keys()
    for place, holds in infinite.items():
        if place not in chosen or (first and place == ""):
            chosen[place] = why_not(flow, entrance, place, holds, place in operands)
        elif chosen[place] == NO_OPERAND and place in operands and not holds:
            chosen[place] = ""  # an operand in one pass is an operand


def choose_by_name(flow: DataFlow, entrance: InputEdge, args: Any, kwargs: Any) -> None:
    """Where no pass can be looked at, names alone tell which arguments are activations."""
    if flow.input_arguments is None or entrance.looked:
        return

    def see(x: Tensor, path: Path) -> Tensor:
        if is_value(x):
            entrance.chosen[name_of(path)] = why_not(flow, entrance, name_of(path), False, False)
        return x

    entrance.arguments.mapped(args, kwargs, see)


def warn_of(late: Iterable[str]) -> None:
    """Edges that ran rounded by what was guessed of them."""
    warnings.warn(
        f"{', '.join(sorted(late))} ran after the model had been looked at without it, as what the modules' order "
        "told; the model was looked at once more, and where that changed what is last, scales start anew (last= or "
        "the model's last_products say it at once)",
        stacklevel=2,
    )
