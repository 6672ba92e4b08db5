"""Activations rounded without hooks: what an Edge does in evaluation, as the module's own forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .. import formats
from ..dataflow import Flow
from ..dataflow.edge import is_value
from ..dataflow.flow import INPUT
from ..dataflow.places import Arguments, Path, mapped, name_of
from ..dataflow.quantizer import Mode, Quantizer

KEYS = ("format", "room", "rule", "tracked", "form", "parts")


def described(flow: Flow) -> dict[str, dict[str, Any]]:
    """{place: its rounding}, as plain values; a place is a module's name, "[1]" behind it for its second output."""
    found = {}
    for edge in flow.edges.values():
        for place, quantizers in edge.everywhere().items():
            if (q := quantizers.get("activation")) is not None:
                parts = [{k: _plain(v) for k, v in part.state_dict().items()} for part in q.parts()]
                found[place] = {
                    "format": q.format.name, "room": q.room, "rule": q.rule, "tracked": q.tracked, "form": q.form,
                    "parts": parts,
                }  # fmt: skip
    return found


def apply_(model: nn.Module, places: Mapping[str, Mapping[str, Any]]) -> None:
    """Let the modules of `model` round what they return, and the model what it takes, as `described` says.

    Raises:
        ValueError: a place that the model does not have, or a format that is unknown here.
    """
    modules = dict(model.named_modules())
    own: dict[str, dict[str, Quantizer]] = {}
    for name, says in places.items():
        module, bracket, rest = name.partition("[")
        if module != INPUT and module not in modules:
            raise ValueError(f"activations are rounded behind {module!r}, which the model does not have")
        own.setdefault(module, {})[bracket + rest] = _quantizer(says)
    for name, quantizers in own.items():
        if name != INPUT:
            module = modules[name]
            module.__dict__["forward"] = RoundedOutput(module, quantizers)
    if INPUT in own:
        model.__dict__["forward"] = RoundedInput(model, own[INPUT])


def rounders_(model: nn.Module, other: Callable[[str, Quantizer], Callable[[Tensor, bool], Tensor]]) -> None:
    """Put other(place, quantizer) in the place of every quantizer that `apply_` made."""
    for name, module in model.named_modules():
        forward = module.__dict__.get("forward")
        while isinstance(forward, _Forward):
            where = INPUT if isinstance(forward, RoundedInput) else name
            forward.quantizers = {end: other(where + end, q) for end, q in forward.quantizers.items()}
            forward = forward.inner


class _Forward:
    """A module's forward with something around it."""

    def __init__(self, module: nn.Module, quantizers: Mapping[str, Quantizer]) -> None:
        self.module = module
        self.quantizers: dict[str, Any] = dict(quantizers)
        self.inner = module.__dict__.get("forward")
        self.__signature__ = inspect.signature(module.forward)  # what torch.export goes by, and by the code
        self.__code__ = type(module).forward.__code__

    def inside(self, *args: Any, **kwargs: Any) -> Any:
        return (
            type(self.module).forward(self.module, *args, **kwargs)
            if self.inner is None
            else self.inner(*args, **kwargs)
        )

    def rounded(self, x: Tensor, path: Path) -> Tensor:
        quantizer = self.quantizers.get(name_of(path))
        return x if quantizer is None or not x.is_floating_point() else quantizer(x, False)


class RoundedOutput(_Forward):
    """Rounds what the module returns."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return mapped(self.inside(*args, **kwargs), self.rounded, other=lambda value, _: value)


class RoundedInput(_Forward):
    """Rounds what the model takes."""

    def __init__(self, module: nn.Module, quantizers: Mapping[str, Quantizer]) -> None:
        super().__init__(module, quantizers)
        self.arguments = Arguments(module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = self.arguments.mapped(args, kwargs, self.rounded)
        return self.inside(*args, **kwargs)

    def rounded(self, x: Tensor, path: Path) -> Tensor:
        return super().rounded(x, path) if is_value(x) else x


def _quantizer(says: Mapping[str, Any]) -> Quantizer:
    missing = [key for key in KEYS if key not in says]
    if missing:
        raise ValueError(f"a rounding of activations without {missing[0]}")
    keyed = says["parts"][0]["key"] is not None
    quantizer = Quantizer(
        formats.get(says["format"]), says["room"], says["tracked"], Mode(observing=False), "" if keyed else None,
        says["form"] != "", says["rule"], says["form"] == "dual_shared",
    )  # fmt: skip
    for part, state in zip(quantizer.parts(), says["parts"], strict=True):
        part.load_state_dict({key: None if value is None else torch.tensor(value) for key, value in state.items()})
    return quantizer


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value
