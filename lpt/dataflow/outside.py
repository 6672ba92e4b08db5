"""Products that no module makes, which `attach_products_` therefore cannot round: told by a look at a forward pass."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from .modes import Watching, evaluating
from .products import OPERANDS, hides_products, module_running

CURE = "write them as lpt.ops.MatMul, or make modules of them by lpt.models.visible_(model, x)"


class _Look(Watching):
    """Counts the products that run in no module of `known`, by operator and module."""

    def __init__(self, known: Collection[str]) -> None:
        super().__init__()
        self.found: Counter[tuple[str, str]] = Counter()
        self._known = known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet in OPERANDS or hides_products(packet):
            name = module_running(self._tracker, {}, False)
            if name not in self._known:
                self.found[str(packet).removeprefix("aten.").strip("_"), re.sub(r"\d+", "*", name)] += 1
        return func(*args, **(kwargs or {}))


def outside(model: nn.Module, known: Collection[str], example: Any) -> list[str]:
    """A line for each kind of product of `model(example)` that runs in none of the modules `known`; no gradients."""
    with evaluating(model), torch.no_grad(), _Look(known) as look:
        model(*example) if isinstance(example, (tuple, list)) else model(example)
    lines = [
        f"in full precision, since no module makes them: {count} x {operator} in {name or 'the model itself'}"
        for (operator, name), count in look.found.items()
    ]
    return [*lines, CURE] if lines else []
