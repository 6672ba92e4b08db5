"""One tensor's place in the data flow: its format, a scale that follows it, and its rounding."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..formats import Format
from ..formats.fused import fused
from ..formats.scaling import NO_SCALE, amax_of, exponent_of

ROW = 1024  # elements that a block of a GPU's threads rounds at once
_CPU = torch.device("cpu")


@dataclass
class Mode:
    """What all quantizers of one model do at present; shared by them and switched by their handle."""

    on: bool = True  # quantize at all
    observing: bool = True  # let scales see the data and generators advance
    fused: bool = False  # compile the rounding into one pass over memory
    counting: bool = False  # count saturation, underflow and nan
    duals: list[Tensor] | None = None  # where an audit collects the sums of two values that were made
    made: Callable[[Tensor, Format, Tensor], None] | None = None  # is told of values, their format and scale


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
        rule: when a largest value counts to the octave above, see `Format.carry`.
        dual: the sum of two values of the format, x ~ q1 + q2 with q2 = Q(x - q1), as for the network's input.
    """

    def __init__(
        self, format: Format, room: int, tracked: bool, mode: Mode, key: str | None = None, dual: bool = False,
        rule: str = "floor",
    ) -> None:  # fmt: skip
        self.format = format
        self.room = room
        self.rule = rule
        self.tracked = tracked and format.scaled
        self.mode = mode
        self.started = False  # does the host know that there is a scale?
        self.steps = 0  # that it waited for one
        self.scale = torch.tensor(NO_SCALE, dtype=torch.int32)
        self.seen = torch.tensor(0.0)  # largest finite |x| since the last step
        self.key = None if key is None else torch.tensor(random.Random(key).getrandbits(61))
        self.rest = Quantizer(format, room, tracked, mode, key and f"{key}/rest", rule=rule) if dual else None
        self.counts: Tensor | None = None  # elements, saturated, underflowed, nan

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        """x rounded; shape and dtype of x; not differentiated."""
        x = x.detach()
        observing = training and self.mode.observing
        if self.scale.device != x.device:
            self.to(x.device)
        key = self.key
        if key is not None and observing:
            key.add_(1)
        q = self._rounded(x, observing, key)
        if self.mode.counting:
            self._count(x, q, self._scale(x))
        if self.rest is None:
            if self.mode.made is not None:
                self.mode.made(q, self.format, self.format.scale_for(self.scale if self.started else self._scale(x)))
            return q
        q = q + self.rest(x - q, training)
        if self.mode.duals is not None:
            self.mode.duals.append(q)
        return q

    def _rounded(self, x: Tensor, observing: bool, key: Tensor | None) -> Tensor:
        run = _fused if self.mode.fused and not torch.compiler.is_compiling() else _plain
        if not self.tracked:
            return run(_at_own_scale, self.format, x, key, self.room, self.rule)
        if not self.started:
            scale = self._scale(x)
            if observing:
                self.scale.copy_(scale)
                _see(x, self.seen)
            return self.format.round(x, self.format.scale_for(scale), key)
        if observing:
            return run(_seen_and_rounded, self.format, x, key, self.scale, self.seen)
        return run(_at_scale, self.format, x, key, self.scale)

    def _scale(self, x: Tensor) -> Tensor:
        """The exponent of the top octave: the tracked one, or, where there is none, that of x; 0-dim."""
        own = exponent_of(amax_of(x).float().reshape(()), self.room, self.format.carry(self.rule))
        return torch.where(self.scale == NO_SCALE, own, self.scale) if self.tracked else own

    def _count(self, x: Tensor, q: Tensor, scale: Tensor) -> None:
        limit = self.format.high * torch.exp2(self.format.scale_for(scale).double())
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
        return {"scale": self.scale, "seen": self.seen, "key": self.key}

    def load_state_dict(self, state: dict[str, object]) -> None:
        for name in ("scale", "seen", "key"):
            saved, own = state[name], getattr(self, name)
            if isinstance(own, Tensor) and isinstance(saved, Tensor):
                own.copy_(saved)
        self.started = bool(self.scale != NO_SCALE)


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
    seen = torch.stack([q.seen for q in moving])
    scale = torch.stack([q.scale for q in moving])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(seen, torch.distributed.ReduceOp.MAX)
        torch.distributed.all_reduce(scale, torch.distributed.ReduceOp.MAX)
    alike = [(counts, len(list(same))) for counts, same in itertools.groupby(moving, _counts)]
    # Filled in where they are needed, since numbers that are sent to a GPU make the host wait for it.
    room, carry = (torch.cat([scale.new_full((n,), counts[i]) for counts, n in alike]) for i in (0, 1))
    move = (exponent_of(seen, carry=carry) + room - scale).clamp(-1, 1)
    moved = torch.where((seen > 0) & (scale != NO_SCALE), scale + move, scale)
    torch._foreach_copy_([q.scale for q in moving], list(moved.unbind()))
    torch._foreach_zero_([q.seen for q in moving])
    # Asking a GPU costs a wait for it, so what may still be without a scale is asked for at steps 1, 2, 4, 8, ...
    waiting = [q for q in moving if not q.started]
    for q in waiting:
        q.steps += 1
        if q.steps.bit_count() == 1:
            q.started = bool(q.scale != NO_SCALE)


def _counts(quantizer: Quantizer) -> tuple[int, int]:
    """What is added to the exponent of the largest |x| seen, and to its bits before."""
    return quantizer.room, quantizer.format.carry(quantizer.rule)


# -- what is done to a tensor: each of these is one pass over memory once it is fused ------------------------------


def _at_scale(format: Format, x: Tensor, key: Tensor | None, scale: Tensor) -> Tensor:
    return format.round(x, format.scale_for(scale), key)


def _seen_and_rounded(format: Format, x: Tensor, key: Tensor | None, scale: Tensor, seen: Tensor) -> Tensor:
    q = format.round(x, format.scale_for(scale), key)
    _see(x, seen)
    return q


def _at_own_scale(format: Format, x: Tensor, key: Tensor | None, room: int, rule: str) -> Tensor:
    return format.round(x, format.scale_of(x, room=room, rule=rule) if format.scaled else 0, key)


def _see(x: Tensor, seen: Tensor) -> None:
    amax = amax_of(x, 0).amax() if x.ndim == 2 and len(x) else amax_of(x)
    seen.copy_(torch.maximum(seen, amax.float().reshape(())))


def _plain(step: Callable[..., Tensor], format: Format, x: Tensor, key: Tensor | None, *rest: Any) -> Tensor:
    return step(format, x, key, *rest)


def _fused(step: Callable[..., Tensor], format: Format, x: Tensor, key: Tensor | None, *rest: Any) -> Tensor:
    """The same on x's memory as it lies, so that one compilation serves every shape."""
    if key is not None:  # random bits go by an element's index, not by its place in memory
        x = x.contiguous()
    # Sizes 0 and 1 would be compiled for; a view's memory may have gaps, or hold one value for several elements.
    if x.numel() < 2 or torch.empty_like(x, device="meta").stride() != x.stride():
        return step(format, x, key, *rest)
    memory = _rows if step is _seen_and_rounded else _flat
    q = _kernel(step, format)(memory(x), key, *rest)
    return q.as_strided(x.shape, x.stride()).data  # no view to autograd, which lets nobody write into those


def _flat(x: Tensor) -> Tensor:
    return x.as_strided((x.numel(),), (1,))


def _rows(x: Tensor) -> Tensor:
    """x's memory, on a GPU in rows where they fit: Triton then rounds and finds the rows' maxima in one pass."""
    if x.device.type == "cpu" or x.numel() % ROW or x.numel() == ROW:
        return _flat(x)
    return x.as_strided((x.numel() // ROW, ROW), (ROW, 1))


@functools.cache
def _kernel(step: Callable[..., Tensor], format: Format) -> Callable[..., Tensor]:
    # The result is a new tensor: written into a given one, inductor would find the maximum in a loop of its own.
    def run(x: Tensor, key: Tensor | None, *rest: Any) -> Tensor:
        return step(format, x, key, *rest)

    return fused(run, ROW)
