"""How the scale of a weight begins, and which formats have scales that can be trained (`learned`)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..formats import Blocks, Format
from ..formats.block_scales import SMALLEST

LEARNED = "lsq"  # what `scaling` calls scales that train


def check_real(format: Format) -> None:
    """Refuse a format whose scale is no real number.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(format, Blocks) or format.scale != "fp32" or format.rule in ("pow2", "inverse"):
        raise ValueError(
            f"scaling={LEARNED} trains scales that are real numbers, and those of {format.name} are not: give a format "
            "with such scales, int4/tensor/fp32 for one a weight, int4/sample/fp32 for one an output channel"
        )


def first(w: Tensor, format: Any) -> Tensor:
    """The scales that a weight begins with, seen with its in-features last; float32, in the shape of its `scales`."""
    count = format.summed(torch.ones_like(w))
    mean = format.summed(w.abs()) / count
    step = unit(format)
    return (2 * mean / math.sqrt(format.high / step) / step).float().clamp(min=SMALLEST)


def unit(format: Any) -> float:
    """The smallest positive level of the elements."""
    levels = format.values()
    return float(levels[levels > 0].min())
