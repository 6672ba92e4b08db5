"""How often quantized weights change, and how near their masters are to changing them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..formats import Format


def flip_frequency(new: Tensor | Sequence[Tensor], old: Tensor | Sequence[Tensor]) -> Tensor:
    """Share of weights whose quantized value differs between two steps (the paper's weight change frequency).

    Args:
        new, old: quantized weights of the same shapes, or lists of such, counted together.

    Returns:
        0-dim float64, 0 to 1.

    Raises:
        ValueError: shapes or numbers of tensors differ, or there is no weight.
    """
    news, olds = ([t] if isinstance(t, Tensor) else list(t) for t in (new, old))
    if [t.shape for t in news] != [t.shape for t in olds]:
        raise ValueError(f"new and old weights differ: {len(news)} and {len(olds)} tensors, or other shapes")
    total = sum(t.numel() for t in news)
    if total == 0:
        raise ValueError("there are no weights to compare")
    changed = torch.stack([(a != b).sum() for a, b in zip(news, olds, strict=True)]).sum()
    return changed.to(torch.float64) / total


def threshold_distance(master: Tensor, quantized: Tensor, format: Format, scale: Tensor | int, width: float) -> Tensor:
    """How far each master is from the nearest point where its quantized weight would change, in steps of the grid.

    The step is the distance between the two levels around the master. With width h the weight at level q changes
    when the master passes q +- (1 + h) / 2 of a step: the midpoint for h = 0 (rounding to nearest), the next level
    for h = 1 (hysteresis). Flicker is a mass of masters near 0.

    Args:
        master, quantized: the same shape; quantized on the grid of `format` at `scale`.
        width: 0 for nearest, the scheme's width for hysteresis.

    Returns:
        float32, 0 to (1 + width) / 2; the latter for a master on its level or beyond the largest one.
    """
    low, high = format.floor(master, scale=scale), format.ceil(master, scale=scale)
    step = high - low
    away = torch.where(step > 0, (master - quantized).abs() / step, 0.0)
    return ((1 + width) / 2 - away).clamp(min=0)


def confidence(master: Tensor, quantized: Tensor, format: Format, scale: Tensor | int, width: float) -> Tensor:
    """`threshold_distance` as a share of the largest that there can be: 0 at a threshold, 1 on a level."""
    return threshold_distance(master, quantized, format, scale, width) / ((1 + width) / 2)
