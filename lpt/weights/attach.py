"""`attach_weights_`: quantized weights in a plain training loop, by hooks on its optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .masters import QuantizedWeights
from .parameters import quantizable
from .rules import Scheme

_ATTACHED = "_lpt_weights"


def attach_weights_(
    model: nn.Module, optimizer: torch.optim.Optimizer, scheme: str | Scheme = "log4_hyst", **options: Any
) -> QuantizedWeights:
    """Quantize the weights of `model` and keep them so through every `optimizer.step()`, by hooks on the optimizer.

    Args:
        model, scheme, options: as for QuantizedWeights.
        optimizer: holds the model's parameters.

    Raises:
        ValueError: as QuantizedWeights; also if the weights are attached already, or the optimizer holds none of
            them. `optimizer.step(closure)` raises it too, since a closure would compute with the masters.
    """
    if _ATTACHED in model.__dict__:
        raise ValueError("this model's weights are attached to an optimizer already; build the model anew")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in quantizable(model).values()):
        raise ValueError("the optimizer holds none of this model's weights: make it from model.parameters()")
    weights = QuantizedWeights(model, scheme, **options)

    def before(opt: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args[1:] or kwargs.get("closure") is not None:
            raise ValueError("optimizer.step(closure) would run the model on its masters: call backward() first")
        weights.swap_in(opt)

    model.__dict__[_ATTACHED] = True
    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(lambda opt, args, kwargs: weights.update(opt))
    return weights
