"""One step of one quantized weight: its scale, its next value, its flips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..formats import Format
from ..formats.scaling import NO_SCALE
from .rules import Scheme

SCALINGS = ("current", "tracked", "delayed", "lsq")


@dataclass(frozen=True)
class Plan:
    """What all weights of a model are quantized by; see `QuantizedWeights`."""

    scheme: Scheme
    scaling: str
    scale_rule: str
    room: int

    @property
    def format(self) -> Format:
        return self.scheme.format

    def begin(self, master: Tensor, quantized: Tensor) -> dict[str, Tensor]:
        """The state of a weight that begins, if the scheme has one (`Chooser.begin`)."""
        begin: Any = getattr(self.scheme, "begin", None)
        return {} if begin is None else begin(master, quantized)


@dataclass(frozen=True)
class Channels:
    """Where the output channels of a weight lie.

    Attributes:
        dim: their dimension; None for one scale a weight.
        groups: of a transposed convolution, whose weight is (in, out / groups, ...). A scale is then
            (groups, 1, out / groups, 1, ...) and broadcasts against `view`, (groups, in / groups, out / groups, ...).
    """

    dim: int | None = None
    groups: int = 1

    def view(self, w: Tensor) -> Tensor:
        """`w` so that its scale broadcasts against it; nothing is copied."""
        return w if self.groups == 1 else w.unflatten(0, (self.groups, -1))

    def memory(self, w: Tensor) -> Tensor | None:
        """`w` as a matrix of one row a scale, as its memory lies; None if it does not lie so."""
        if self.groups > 1 or self.dim not in (0, None) or not w.is_contiguous():
            return None
        return w.view(1 if self.dim is None else len(w), -1)

    def scale(self, w: Tensor, plan: Plan) -> Tensor:
        """The scale of each output channel of a weight seen by `view`; int32."""
        if self.groups == 1:
            return plan.format.scale_of(w, self.dim, plan.room, plan.scale_rule)
        rows = w.transpose(1, 2)  # (groups, out / groups, in / groups, ...)
        scale = plan.format.scale_of(rows.flatten(0, 1), 0, plan.room, plan.scale_rule)
        return scale.unflatten(0, rows.shape[:2]).transpose(1, 2)


class Seen(Protocol):
    """How a weight is seen by its format and scales: `Channels`, or `InFeatures` where the format has blocks."""

    def view(self, w: Tensor) -> Tensor: ...

    def scale(self, w: Tensor, plan: Plan) -> Tensor: ...

    def memory(self, w: Tensor) -> Tensor | None: ...


def step(
    plan: Plan, channels: Seen, master: Tensor, quantized: Tensor, written: Tensor, scale: Tensor,
    upcoming: Tensor | None, key: Tensor | None, state: Sequence[Tensor] = (),
) -> Tensor:  # fmt: skip
    """Once over one weight: its scale and its next quantized value, both in place.

    Args:
        master, quantized: seen by `channels.view`.
        written: gets what `quantized` gets.
        scale: of the grid that `quantized` lies on.
        upcoming: with delayed scaling, the scale of the next grid; with lsq, as it has been trained; None otherwise.
        state: of a scheme that has one (`Chooser`), in place as well.

    Returns:
        Level flips and regrid flips, int64 [2].
    """
    scheme: Any = plan.scheme
    held = scheme.hold(master, *state) if state else master
    new_scale = _next_scale(plan, channels, held, scale, upcoming)
    new = scheme(held, quantized, new_scale, key, *state).to(quantized.dtype)
    flips = _flips(new != quantized, plan.format.moved(new_scale, scale, quantized))
    if held is not master:
        master.copy_(held)
    quantized.copy_(new)
    written.copy_(new)
    scale.copy_(new_scale)
    return flips


def _next_scale(plan: Plan, channels: Seen, held: Tensor, scale: Tensor, upcoming: Tensor | None) -> Tensor:
    if plan.scaling == "lsq":
        assert upcoming is not None
        return upcoming
    largest = channels.scale(held, plan)
    if plan.scaling == "current":
        return largest
    if upcoming is None:
        return _moved(scale, largest)
    new_scale = torch.where(upcoming == NO_SCALE, largest, upcoming)
    upcoming.copy_(_moved(new_scale, largest))
    return new_scale


def _flips(flipped: Tensor, moved: Tensor) -> Tensor:
    """Level and regrid flips; counted scale by scale in 32 bits first, which takes compiled code half the time."""
    within = [d for d in range(flipped.ndim) if moved.shape[d] == 1]
    counts = flipped.sum(within, keepdim=True, dtype=torch.int32) if within else flipped.to(torch.int32)
    regrid = torch.where(moved, counts, 0).sum()
    return torch.stack([counts.sum() - regrid, regrid])


def _moved(scale: Tensor, largest: Tensor) -> Tensor:
    moved = scale + (largest - scale).clamp(-1, 1)
    moved = torch.where(scale == NO_SCALE, largest, moved)  # it starts with the first nonzero weight
    return torch.where(largest == NO_SCALE, scale, moved)  # and stays while all are zero


def step_rows(
    plan: Plan, master: Tensor, quantized: Tensor, written: Tensor, scale: Tensor, upcoming: Tensor | None,
    key: Tensor | None, *state: Tensor,
) -> Tensor:  # fmt: skip
    """`step` for compiled code: a weight of one scale is a row [1, n], another is a row a channel."""
    return step(plan, Channels(0), master, quantized, written, scale, upcoming, key, state)
