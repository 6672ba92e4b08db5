"""Parameters of which a process holds a part (FSDP2, tensor parallelism): refused before work starts."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn


def refuse_sharded(model: nn.Module) -> None:
    """Refuse a model of which some parameter is a DTensor.

    A scale, a block and a channel are of a whole weight, and a part that a process holds would get others: no error
    would tell, and the numbers would depend on how many processes there are.

    Raises:
        ValueError: there is one.
    """
    module = sys.modules.get("torch.distributed.tensor")  # where it was never imported there is none
    kind: Any = getattr(module, "DTensor", None)
    for name, p in model.named_parameters() if kind is not None else ():
        if isinstance(p, kind):
            raise ValueError(
                f"{name!r} is a DTensor, sharded by fully_shard (FSDP2) or tensor parallelism: scales, blocks and "
                "masters are of whole weights, so train with DDP (trainer.strategy=ddp), or leave this model unsharded"
            )
