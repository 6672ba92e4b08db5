"""Which dtype a weight, its master and a format go together in."""

from __future__ import annotations

import torch
from torch import Tensor

from .step import Plan


def holds(dtype: torch.dtype, plan: Plan) -> bool:
    """Whether the significands of the format's values fit into those of the dtype."""
    levels = plan.format.round(torch.linspace(-1, 1, 2**12 + 1))
    return torch.equal(levels.to(dtype).float(), levels)


def several_processes() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def master_dtype(p: Tensor) -> torch.dtype:
    return torch.float64 if p.dtype == torch.float64 else torch.float32


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
