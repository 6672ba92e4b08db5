"""Tracked scales move here, all of a model's together, once an optimizer step."""

import itertools

import torch

from ..formats.scaling import NO_SCALE, exponent_of
from .quantizer import Quantizer

_CPU = torch.device("cpu")


def move_scales(quantizers: list[Quantizer]) -> None:
    """One step of every tracked scale: clamp(e + room - scale, -1, 1), e the exponent of the largest |x| seen.

    A scale that saw nothing but zeros stays. With several processes all take the largest |x| and scale of any.
    """
    moving = sorted((q for q in quantizers if q.tracked), key=_counts)
    if not moving:
        return
    device = next((q.scale.device for q in moving if q.scale.device != _CPU), _CPU)
    for q in moving:
        if q.scale.device != device:  # it has not seen a tensor yet
            q.to(device)
    wide = any(q.seen.dtype == torch.float64 for q in moving)
    dtype, integer = (torch.float64, torch.int64) if wide else (torch.float32, torch.int32)
    seen = torch.stack([q.seen.to(dtype) for q in moving])
    scale = torch.stack([q.scale for q in moving])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX)
        torch.distributed.all_reduce(scale, torch.distributed.ReduceOp.MAX)
    groups = [list(same) for _, same in itertools.groupby(moving, _counts)]
    alike = [(group[0], len(group)) for group in groups]
    # Filled in where they are needed, since numbers that are sent to a GPU make the host wait for it.
    room = torch.cat([scale.new_full((n,), q.room) for q, n in alike])
    carry = torch.cat([scale.new_full((n,), q.format.carry(q.rule, dtype), dtype=integer) for q, n in alike])
    move = (exponent_of(seen, carry=carry) + room - scale).clamp(-1, 1)
    moved = torch.where((seen > 0) & (scale != NO_SCALE), scale + move, scale)
    torch._foreach_copy_([q.scale for q in moving], list(moved.unbind()))
    torch._foreach_zero_([q.seen for q in moving])
    # Asking a GPU costs a wait for it, so what may still be without a scale is asked for at steps 1, 2, 4, 8, ...
    waiting = [q for q in moving if not q.started]
    for q in waiting:
        q.steps += 1
        if q.steps.bit_count() == 1:
            q.started = q.scale.is_meta or bool(q.scale != NO_SCALE)  # a meta tensor has no value to tell


def _counts(quantizer: Quantizer) -> tuple[int, int]:
    """What is added to the exponent of the largest |x| seen, and to its bits before."""
    return quantizer.room, quantizer.format.carry(quantizer.rule)
