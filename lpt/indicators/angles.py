"""The angle by which quantization turns a gradient (the paper's performance indicator)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def angle(g: Tensor | Sequence[Tensor], g_reference: Tensor | Sequence[Tensor]) -> Tensor:
    """Angle between two gradients in degrees, 0 to 180; 0-dim float64.

    Computed as 2 * atan2(|a - b|, |a + b|) of the unit vectors a and b, which stays exact at small angles, where
    the arc cosine does not.

    Args:
        g, g_reference: tensors of the same shapes, or lists of such, which are concatenated.

    Raises:
        ValueError: the sizes differ, or a gradient is zero or not finite, so that it has no direction.
    """
    a, b = _flat(g), _flat(g_reference)
    if a.numel() != b.numel():
        raise ValueError(f"gradients of {a.numel()} and {b.numel()} elements: compare gradients of the same weights")
    lengths = torch.stack([a.norm(), b.norm()])
    if not bool(((lengths > 0) & lengths.isfinite()).all()):
        raise ValueError(
            f"the gradients have lengths {lengths[0].item():.3g} and {lengths[1].item():.3g}: a gradient that is zero "
            "or not finite has no direction; check the loss, and that the weights require gradients"
        )
    a, b = a / lengths[0], b / lengths[1]
    return torch.rad2deg(2 * torch.atan2((a - b).norm(), (a + b).norm()))


def _flat(g: Tensor | Sequence[Tensor]) -> Tensor:
    parts = [g] if isinstance(g, Tensor) else list(g)
    if not parts:
        raise ValueError("the list of gradients is empty; give at least one tensor")
    return torch.cat([part.detach().to(torch.float64).reshape(-1) for part in parts])
