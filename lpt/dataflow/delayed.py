"""Scales of whole tensors that follow from the tensors before: TransformerEngine's delayed scaling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..formats import Blocks, Format
from .ranks import largest_


@dataclass(frozen=True)
class Delayed:
    """factor = high / amax / 2**margin, from the amaxes of earlier runs of the product in training.

    The first factor is 1, and so is it kept while amax is 0 or not finite. What a run sees is taken in after the run
    has used the factor.

    Args:
        history: runs that amax looks back on.
        take: "max", the largest of them, or "recent", the last one.
        margin: octaves of headroom.
    """

    history: int = 1024
    take: str = "max"
    margin: int = 0

    def __post_init__(self) -> None:
        for key, least in (("history", 1), ("margin", 0)):
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"scaling: {key}={value!r} is no whole number from {least} upward")
        if self.take not in ("max", "recent"):
            raise ValueError(f"scaling: take={self.take!r} is not one of max, recent")

    def __str__(self) -> str:
        return f"delayed {self.take} of {self.history}" + (f" margin {self.margin}" if self.margin else "")


def delayed(spec: Any, grid: Format) -> Delayed | None:
    """What a Slot's `scaling` asks for.

    Raises:
        ValueError: it is none, or the format is none of which this can be the scale.
    """
    if spec is None or isinstance(spec, Delayed):
        found = spec
    elif isinstance(spec, Mapping) and not set(spec) - {field.name for field in fields(Delayed)}:
        found = Delayed(**{str(key): value for key, value in spec.items()})
    else:
        raise ValueError(f"scaling={spec!r}: write {{history: 1024, take: max}}, or null for a scale of each tensor")
    whole = isinstance(grid, Blocks) and (grid.scale, grid.rule) == ("fp32", "inverse") and grid.whole
    if found is not None and not whole:
        raise ValueError(
            f"scaling={{{found}}} is for one FP32 scale a tensor, which {grid.name} has not: give a format such as "
            "ocp_e4m3/tensor/fp32/inverse"
        )
    return found


class History:
    """The factor of one operand, and the amaxes that it follows from.

    Attributes:
        factor: float32 [1, 1], as `Blocks.scales` has it.
        amaxes: float32 [history], the last one first.
    """

    def __init__(self, rule: Delayed, high: float) -> None:
        self.rule, self.high = rule, high
        self.factor, self.amaxes = torch.ones(1, 1), torch.zeros(rule.history)

    def at(self, device: torch.device) -> Tensor:
        if self.factor.device != device:
            self.factor, self.amaxes = self.factor.to(device), self.amaxes.to(device)
        return self.factor

    def see(self, x: Tensor) -> None:
        """Take in a tensor that was rounded at the factor; of several processes, the largest amax of any."""
        if not x.numel():
            return
        amaxes = self.amaxes.roll(1)
        amaxes[0] = largest_(x.abs().amax().float())
        amax = amaxes.amax() if self.rule.take == "max" else amaxes[0]
        factor = (torch.full_like(amax, self.high) / amax) / 2.0**self.rule.margin
        factor = factor.clamp(max=torch.finfo(torch.float32).max)
        kept = torch.where((amax > 0) & amax.isfinite(), factor, self.factor[0, 0])
        self.amaxes, self.factor = amaxes, kept.reshape(1, 1)  # others: what is compiled may still read these

    def state(self) -> dict[str, Tensor]:
        return {"factor": self.factor, "amaxes": self.amaxes}
