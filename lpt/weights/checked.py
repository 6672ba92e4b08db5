"""Whether quantized weights are what they should be: on their grids, at scales that are numbers, alike on all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..formats.scaling import NO_SCALE
from .masters import QuantizedWeights


@torch.no_grad()
def off_grid(weights: QuantizedWeights) -> list[str]:
    """The weights with a value that is no level of their format at their scale; nan is for others to look for."""
    flags = []
    for name, param in weights.params.items():
        values = weights.by_channel(name, param.detach())
        levels = weights.scheme.format.round(values, scale=weights.scales[name])
        flags.append(((levels != values) & ~values.isnan()).any())
    return _named(weights.names, flags)


@torch.no_grad()
def odd_scales(weights: QuantizedWeights) -> list[str]:
    """The weights with a scale that is infinite, not a number, or zero although the master is not."""
    flags = []
    for name, master in weights.masters.items():
        scale, values = weights.scales[name], weights.by_channel(name, master)
        if scale.is_floating_point():
            odd = ~scale.isfinite() | ((scale == 0) & (values != 0).any())
        else:  # an exponent
            high = torch.exp2(scale.double()) * weights.scheme.format.high
            none = (scale == NO_SCALE) & (values.abs().amax() > 0) & (scale.numel() == 1)
            odd = (high.float().isinf()) | none
        flags.append(odd.any())
    return _named(weights.names, flags)


@torch.no_grad()
def checksums(weights: QuantizedWeights) -> Tensor:
    """A number for each weight, int64, that changes with any of its bits and with their order."""
    sums = []
    for param in weights.params.values():
        bits = param.detach().float().contiguous().view(torch.int32).view(-1).long()
        sums.append((bits * torch.arange(1, len(bits) + 1, device=bits.device)).sum())
    return torch.stack(sums) if sums else torch.zeros(0, dtype=torch.int64)


def _named(names: list[str], flags: list[Tensor]) -> list[str]:
    return [name for name, odd in zip(names, torch.stack(flags).tolist(), strict=True) if odd] if flags else []
