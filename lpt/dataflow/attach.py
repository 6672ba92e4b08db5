"""`attach_`: a model and what its data flow is to be become a handle."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..weights.sharded import refuse_sharded
from .edge import Edge
from .flow import HANDLE, Flow
from .spec import DataFlow


class Handle(Flow):
    """A `Flow` that can also say what each module got."""

    def report(self, example: Any = None) -> Any:
        """What each module got, what was left out and why; its `str` is a table.

        Args:
            example: an input (or tuple of inputs) of the model. With it the forward pass is run once and the
                share of multiply-accumulates that work on quantized operands is measured.
        """
        from .coverage import Report  # the audit costs an import that training does not need

        return Report(self, example)


def attach_(model: nn.Module, flow: DataFlow | None = None) -> Handle:
    """Quantize the data flow of `model`, in place, by hooks; parameters, names and the state dict stay as they are.

    Args:
        model: any nn.Module, before it is wrapped for distribution or compilation.
        flow: formats and scales; FP134 for A, E and G if not given.

    Raises:
        ValueError: no module; one that has Edges already, itself or in a part; a rule or `last` that matches nothing;
            parameters that are sharded.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"attach_ takes an nn.Module, got a {type(model).__name__}")
    if flow is not None and not isinstance(flow, DataFlow):
        raise ValueError(f"attach_ takes a DataFlow, got {flow!r}: write lpt.DataFlow(activation=..., error=..., ...)")
    if HANDLE in model.__dict__:
        raise ValueError("this model's data flow is quantized already; call remove() on its handle first")
    refuse_sharded(model)
    if (taken := _taken(model)) is not None:
        raise ValueError(
            f"{taken or 'the model'} is in another data flow already, and would be rounded twice: attach_ the largest "
            "model alone (rules give its parts other formats), or call remove() on the other handle first"
        )
    handle = Handle(model, flow or DataFlow())
    model.__dict__[HANDLE] = handle
    return handle


def _taken(model: nn.Module) -> str | None:
    """The name of the first module that has an Edge of another handle."""
    for name, module in model.named_modules():
        if any(
            isinstance(hook, Edge) for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        ):
            return name
    return None
