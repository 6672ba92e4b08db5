"""Whole training steps of one network by other libraries that simulate low precision, beside ours."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .. import attach_
from ..dataflow.flow import INPUT
from .measuring import Work
from .training import Step

EAGER = "fp32, eager"


def simulators(depth: int, batch: int) -> dict[str, Work]:
    """A, E, G and W of lpt; what each other library rounds is in its name. What is not installed is left out, told."""
    works = {EAGER: Work(Step(depth, batch))}
    for name, fuse in (("lpt: A, E, G in FP134, W log4_hyst", True), ("the same, compile=false", False)):
        works[name] = Work(Step(depth, batch, quantized=True, fuse=fuse))
    for build in (_qtorch, _torch, _brevitas):
        try:
            name, step = build(depth, batch)
            step()  # whatever does not work here fails here
        except Exception as error:
            print(f"left out, {build.__name__[1:]}: {str(error).splitlines()[0]}", file=sys.stderr)
        else:
            works[name] = Work(step)
    return works


def places(step: Step) -> list[nn.Module]:
    """The modules of a step's model behind which lpt puts its Edges."""
    model: Any = step.model
    flow = attach_(model)
    step.loss()  # the first pass shows which products are last
    names = [name for name, edge in flow.edges.items() if name != INPUT and edge.quantizers()]
    flow.remove()
    return [model.get_submodule(name) for name in names]


def _behind(modules: Iterable[nn.Module], make: Callable[[], Callable[[Tensor], Tensor]]) -> None:
    for module in modules:
        quantizer = make()
        module.register_forward_hook(lambda module, args, output, quantizer=quantizer: quantizer(output))


def _qtorch(depth: int, batch: int) -> tuple[str, Callable[[], None]]:
    from qtorch import FloatingPoint
    from qtorch.optim import OptimLP
    from qtorch.quant import Quantizer, quantizer

    step, number = Step(depth, batch), FloatingPoint(exp=3, man=4)
    _behind(places(step), lambda: Quantizer(number, number, "nearest", "nearest"))
    values = quantizer(forward_number=number, forward_rounding="nearest")
    weights = [p for p in step.model.parameters() if p.ndim > 1]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9)
    low = OptimLP(optimizer, weight_quant=values, grad_quant=values)

    def run() -> None:
        step.model.zero_grad()
        step.loss().backward()
        low.step()

    return "QPyTorch: A, E, G, W in E3M4", run


def _torch(depth: int, batch: int) -> tuple[str, Callable[[], None]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is on its way to torchao
        from torch.ao.quantization import (
            default_fused_act_fake_quant,
            default_fused_per_channel_wt_fake_quant,
        )
    from torch.nn.utils import parametrize

    step = Step(depth, batch)
    _behind(places(step), default_fused_act_fake_quant)
    for module in list(step.model.modules()):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            parametrize.register_parametrization(module, "weight", default_fused_per_channel_wt_fake_quant())
    return "torch's fake quantization: A, W in INT8", step


def _brevitas(depth: int, batch: int) -> tuple[str, Callable[[], None]]:
    from brevitas.nn import QuantConv2d, QuantIdentity

    step = Step(depth, batch)
    behind = places(step)
    _behind([module for module in behind if not isinstance(module, nn.Conv2d)], QuantIdentity)
    for module in list(step.model.modules()):
        for name, conv in list(module.named_children()):
            if isinstance(conv, nn.Conv2d):
                options = {key: getattr(conv, key) for key in ("stride", "padding", "dilation", "groups")}
                own = QuantConv2d(
                    conv.in_channels, conv.out_channels, conv.kernel_size, bias=conv.bias is not None, **options
                )
                own.weight = conv.weight
                setattr(module, name, own)
                if any(conv is one for one in behind):
                    _behind([own], QuantIdentity)
    return "Brevitas: A, W in INT8", step
