"""What an optimizer does besides moving the masters: it decays weights, and it keeps momenta."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..formats import Format

MOMENTA = ("momentum_buffer", "exp_avg", "exp_avg_sq")
Decays = list[tuple[dict[str, Any], float]]  # parameter groups and the weight decay that pauses in them


def decay_by(optimizer: torch.optim.Optimizer, masters: Mapping[int, Tensor]) -> Decays:
    """Decay by the quantized weights, which the parameters still hold; the optimizer's own decay pauses.

    Args:
        masters: by the id of their parameters.
    """
    paused: Decays = []
    for group in optimizer.param_groups:
        decay = group.get("weight_decay", 0)
        decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
        if not decay:
            continue
        for p in group["params"]:
            if p.grad is None:
                continue
            if decoupled:
                target = masters.get(id(p), p)
                target.sub_(p, alpha=float(group["lr"] * decay))
            else:
                p.grad.add_(p, alpha=decay)
        paused.append((group, decay))
        group["weight_decay"] = 0
    return paused


def restart_decay(paused: Decays) -> None:
    for group, decay in paused:
        group["weight_decay"] = decay


def round_momenta(
    optimizer: torch.optim.Optimizer, params: Iterable[Tensor], format: Format, key: Callable[[int, int], Tensor]
) -> None:
    """Round what the optimizer keeps of each parameter; `key` of (parameter, use) seeds the random bits."""
    for i, p in enumerate(params):
        for j, name in enumerate(MOMENTA):
            momentum = optimizer.state.get(p, {}).get(name)
            if momentum is not None:
                momentum.copy_(format.round(momentum, stochastic=key(i, 2 + j)))
