"""Whether weights travel or oscillate, from their values at successive steps."""

from collections.abc import Sequence

import torch
from torch import Tensor

OSCILLATES = 16.0  # R from which on a weight counts as oscillating (TetraJet, arXiv 2502.20853)


def reversals(new: Tensor, old: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Which quantized weights changed opposite to their last change (Nagel et al. 2022, arXiv 2203.11086).

    Args:
        new, old: quantized weights of two successive steps.
        direction: the sign of each one's last change, 0 before the first; int8.

    Returns:
        bool, and the direction from now on.
    """
    change = (new > old).to(torch.int8) - (new < old).to(torch.int8)
    return direction * change < 0, torch.where(change == 0, direction, change)


def rate_of_change(new: Tensor | Sequence[Tensor], old: Tensor | Sequence[Tensor]) -> Tensor:
    """|new - old| / |old|, the Euclidean norms over all tensors; 0-dim float64; 0 / 0 = 0.

    Raises:
        ValueError: shapes or numbers of tensors differ.
    """
    news, olds = ([t] if isinstance(t, Tensor) else list(t) for t in (new, old))
    if [t.shape for t in news] != [t.shape for t in olds]:
        raise ValueError(f"new and old values differ: {len(news)} and {len(olds)} tensors, or other shapes")
    moved = torch.stack([(a.double() - b.double()).norm() for a, b in zip(news, olds, strict=True)]).norm()
    size = torch.stack([b.double().norm() for b in olds]).norm()
    return torch.where(moved > 0, moved / size, moved)


def travel_ratio(jumped: Tensor, moved: Tensor) -> Tensor:
    """R = sum |Q_t - Q_(t-1)| / sum |w_t - w_(t-1)| of each weight, from the two sums; 0 where its master stayed."""
    return torch.where(moved > 0, jumped / moved, 0.0)


def oscillating(jumped: Sequence[Tensor], moved: Sequence[Tensor], least: float = OSCILLATES) -> Tensor:
    """The share of weights with R >= least; 0-dim float64.

    Raises:
        ValueError: there is no weight.
    """
    total = sum(t.numel() for t in moved)
    if total == 0:
        raise ValueError("there are no weights to look at")
    found = [(travel_ratio(a, b) >= least).sum() for a, b in zip(jumped, moved, strict=True)]
    return torch.stack(found).sum().double() / total
