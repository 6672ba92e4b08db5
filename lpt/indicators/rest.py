"""How far masters lie from the levels that stand for them, and what that costs in bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..formats import Format


def rest_distance(master: Tensor, quantized: Tensor, format: Format, scale: Tensor) -> Tensor:
    """|w - Q| of each weight in steps of the grid, the distance between the levels around w.

    At most 1/2 after rounding to nearest, and 1 under the paper's hysteresis. 0 on a level and beyond the largest one.

    Args:
        master, quantized: seen so that `scale` broadcasts against them (`QuantizedWeights.by_channel`).
        format, scale: of the grid.
    """
    step = format.ceil(master, scale=scale) - format.floor(master, scale=scale)
    return torch.where(step > 0, (master - quantized).abs() / step, 0.0)


def bits_lost(distances: Sequence[Tensor]) -> Tensor:
    """log2(sqrt(12) rms) of distances in steps, 0-dim: how many bits of the weights' resolution are not there.

    0 where distances are spread evenly from 0 to 1/2, as rounding to nearest has them between levels; 1 where evenly
    from 0 to 1. -inf where there is no distance.
    """
    squares = torch.stack([d.double().square().sum() for d in distances]).sum()
    return (12 * squares / sum(d.numel() for d in distances)).sqrt().log2()


def rounding_noise(masters: Sequence[Tensor], quantized: Sequence[Tensor]) -> Tensor:
    """|w - Q| / |w| over all weights, 0-dim."""
    off = sum(((w - q).double().square().sum() for w, q in zip(masters, quantized, strict=True)), torch.tensor(0.0))
    all_of = sum((w.double().square().sum() for w in masters), torch.tensor(0.0))
    return (off / all_of.clamp(min=math.ulp(0.0))).sqrt()
