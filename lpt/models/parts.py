"""A model of one's own whose forward cannot be traced as a whole: its parts are made visible, each by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..dataflow.modes import evaluating
from ..errors import UserError
from .attention import spelled_parts
from .visible import visible


def visible_(model: nn.Module, *example: Any) -> dict[str, str]:
    """Make the operations in the parts of `model` visible, in place: the largest parts that `visible` can take.

    Loops, asserts and lengths of tensors in a forward stop `visible`; here they may stand in the model's own forward,
    and the blocks that it calls are taken one by one. What a forward that cannot be taken does itself stays as it is:
    `report` tells whether anything is lost by it. torch's attention and Transformer layers are spelled out.

    Args:
        model: is run once on the example, in evaluation and without gradients; its names stay.
        example: what `model(*example)` takes.

    Returns:
        The parts that were not made visible, by name, and why; empty if none is left.
    """
    for name, child in list(model.named_children()):
        for place, spelled in spelled_parts(child, name):
            model.set_submodule(place, spelled)
    inputs = _inputs(model, example)
    done: dict[int, nn.Module] = {}
    refused: dict[str, str] = {}

    def take(name: str, owner: nn.Module) -> None:
        for leaf, child in list(owner._modules.items()):
            path = f"{name}.{leaf}".lstrip(".")
            if child is None:
                continue
            if id(child) in done:  # it stands in two places
                owner.add_module(leaf, done[id(child)])
            elif all(type(part).__module__.startswith("torch.nn.") for part in child.modules()):
                continue
            elif path in inputs:
                try:
                    done[id(child)] = visible(child, path, inputs[path])
                    owner.add_module(leaf, done[id(child)])
                    refused.pop(path, None)
                except UserError as error:
                    refused[path] = str(error)
                    take(path, child)
            else:
                take(path, child)

    take("", model)
    return refused


def _inputs(model: nn.Module, example: tuple[Any, ...]) -> dict[str, Tensor]:
    """The tensor that each part was called with, where it was one and nothing else, and gave one back."""
    inputs: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():

        def see(_: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            if len(args) == 1 and isinstance(args[0], Tensor) and not kwargs and isinstance(output, Tensor):
                inputs[name] = args[0].detach().clone()

        hooks.append(module.register_forward_hook(see, with_kwargs=True))
    try:
        with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(*example)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs
