"""One tensor's place in the data flow: its format, a scale that follows it, and its rounding."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from .formats import Format
from .formats.scaling import NO_SCALE, amax_of, exponent_of


@dataclass
class Mode:
    """What all quantizers of one model do at present; shared by them and switched by their handle."""

    on: bool = True  # quantize at all
    observing: bool = True  # let scales see the data and generators advance
    counting: bool = False  # count saturation, underflow and nan
    duals: list[Tensor] | None = None  # where an audit collects the sums of two values that were made


class Quantizer:
    """Rounds a tensor to `format` at a scale that is either its own (current) or follows it slowly (tracked).

    A tracked scale starts at the first tensor's exponent + room and then moves in `step`, by one at the most. It
    is read, but not started or moved, while `observing` is off or the model evaluates.

    Args:
        format: the format.
        room: octaves of headroom.
        tracked: tracked scale, or else current.
        mode: shared switches.
        key: seed of stochastic rounding; None rounds to nearest.
        dual: the sum of two values of the format, x ~ q1 + q2 with q2 = Q(x - q1), as for the network's input.
    """

    def __init__(
        self, format: Format, room: int, tracked: bool, mode: Mode, key: str | None = None, dual: bool = False
    ) -> None:
        self.format = format
        self.room = room
        self.tracked = tracked and format.scaled
        self.mode = mode
        self.started = False  # has `scale` seen a whole step?
        self.scale = torch.tensor(NO_SCALE, dtype=torch.int32)
        self.seen = torch.tensor(0.0)  # largest finite |x| since the last step
        self.key = None if key is None else torch.tensor(random.Random(key).getrandbits(61))
        self.rest = Quantizer(format, room, tracked, mode, key and f"{key}/rest") if dual else None
        self.counts: Tensor | None = None  # elements, saturated, underflowed, nan

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        """x rounded; shape and dtype of x; not differentiated."""
        x = x.detach()
        observing = training and self.mode.observing
        if self.scale.device != x.device:
            self.to(x.device)
        scale = self._scale(x, observing)
        key = self.key
        if key is not None and observing:
            key.add_(1)
        q = self.format.round(x, scale, key)
        if self.mode.counting:
            self._count(x, q, scale)
        if self.rest is None:
            return q
        q = q + self.rest(x - q, training)
        if self.mode.duals is not None:
            self.mode.duals.append(q)
        return q

    def _scale(self, x: Tensor, observing: bool) -> Tensor | int:
        if not self.format.scaled:
            return 0
        if not self.tracked or not (observing or self.started):
            return self.format.scale_of(x, room=self.room)
        if observing:
            amax = amax_of(x).float().reshape(())
            self.scale.copy_(torch.where(self.scale == NO_SCALE, exponent_of(amax, self.room), self.scale))
            self.seen.copy_(torch.maximum(self.seen, amax))
        return self.format.scale_for(self.scale)

    def _count(self, x: Tensor, q: Tensor, scale: Tensor | int) -> None:
        limit = self.format.high * torch.exp2(torch.as_tensor(scale, device=x.device).double())
        counts = torch.stack(
            [
                torch.tensor(x.numel(), device=x.device),
                (x.abs() > limit).sum(),
                ((q == 0) & (x != 0)).sum(),
                x.isnan().sum(),
            ]
        )
        self.counts = counts if self.counts is None else self.counts + counts

    def to(self, device: torch.device) -> None:
        self.scale, self.seen = self.scale.to(device), self.seen.to(device)
        self.key = None if self.key is None else self.key.to(device)

    def parts(self) -> list[Quantizer]:
        """This quantizer and, for a dual one, its second part."""
        return [self] if self.rest is None else [self, self.rest]

    def state_dict(self) -> dict[str, object]:
        return {"scale": self.scale, "seen": self.seen, "key": self.key, "started": self.started}

    def load_state_dict(self, state: dict[str, object]) -> None:
        for name in ("scale", "seen", "key"):
            saved, own = state[name], getattr(self, name)
            if isinstance(own, Tensor) and isinstance(saved, Tensor):
                own.copy_(saved)
        self.started = bool(state["started"])


def move_scales(quantizers: list[Quantizer]) -> None:
    """One step of every tracked scale: clamp(e + room - scale, -1, 1), e the exponent of the largest |x| seen.

    A scale that saw nothing but zeros stays. With several processes all take the largest |x| and scale of any.
    """
    moving = [q for q in quantizers if q.tracked]
    if not moving:
        return
    seen = torch.stack([q.seen for q in moving])
    scale = torch.stack([q.scale for q in moving])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX)
        torch.distributed.all_reduce(scale, torch.distributed.ReduceOp.MAX)
    room = torch.tensor([q.room for q in moving], dtype=torch.int32, device=scale.device)
    move = (exponent_of(seen) + room - scale).clamp(-1, 1)
    moved = torch.where((seen > 0) & (scale != NO_SCALE), scale + move, scale)
    torch._foreach_copy_([q.scale for q in moving], list(moved.unbind()))
    torch._foreach_zero_([q.seen for q in moving])
    for q in moving:
        q.started = True
