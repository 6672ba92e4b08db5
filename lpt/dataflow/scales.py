"""Tracked scales move here, all of a model's together, once an optimizer step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch

from ..formats.kernels import Library
from ..formats.scaling import NO_SCALE, exponent_of
from .quantizer import Quantizer
from .ranks import largest_

_CPU = torch.device("cpu")


class Scales:
    """The tracked scales of many quantizers in one tensor, and what they saw in another; each holds views of these.

    Args:
        quantizers: those without a tracked scale are passed over. Their scales and what they saw stay what they are.
    """

    def __init__(self, quantizers: Iterable[Quantizer]) -> None:
        self.quantizers = sorted((q for q in quantizers if q.tracked), key=_counts)
        device = next((q.scale.device for q in self.quantizers if q.scale.device != _CPU), _CPU)
        wide = any(q.seen.dtype == torch.float64 for q in self.quantizers)
        dtype, integer = (torch.float64, torch.int64) if wide else (torch.float32, torch.int32)
        with torch.inference_mode(False), torch.no_grad():
            size = len(self.quantizers)
            self.scale = torch.empty(size, dtype=torch.int32, device=device)
            self.seen = torch.empty(size, dtype=dtype, device=device)
            for q, scale, seen in zip(self.quantizers, self.scale.unbind(), self.seen.unbind(), strict=True):
                q.to(device)
                q.scale, q.seen = scale.copy_(q.scale), seen.copy_(q.seen)
            alike = [list(same) for _, same in itertools.groupby(self.quantizers, _counts)]
            # Filled in where they are needed, since numbers that are sent to a GPU make the host wait for it.
            self._room = self._filled([(len(group), group[0].room) for group in alike], torch.int32)
            carries = [(len(group), group[0].format.carry(group[0].rule, dtype)) for group in alike]
            self._carry = self._filled(carries, integer)
        self._views = [(q.scale, q.seen) for q in self.quantizers]

    def _filled(self, runs: list[tuple[int, int]], dtype: torch.dtype) -> torch.Tensor:
        parts = [torch.full((count,), value, dtype=dtype, device=self.scale.device) for count, value in runs]
        return torch.cat(parts) if parts else torch.empty(0, dtype=dtype, device=self.scale.device)

    def whole(self) -> bool:
        """Whether every quantizer still holds its views: it may have moved to a device, or come to see float64."""
        return all(
            q.scale is scale and q.seen is seen for q, (scale, seen) in zip(self.quantizers, self._views, strict=True)
        )

    def move(self, kernels: Library | None = None) -> None:
        """One step of every scale: clamp(e + room - scale, -1, 1), e the exponent of the largest |x| seen.

        A scale that saw nothing but zeros stays. With several processes all take the largest |x| and scale of any.
        """
        if not self.quantizers:
            return
        seen, scale = self.seen, self.scale
        largest_(seen)
        largest_(scale)
        run = _move if kernels is None else kernels.kernel(_move)
        run(scale, seen, self._room, self._carry)
        # Asking a GPU costs a wait for it, so what may still be without a scale is asked for at steps 1, 2, 4, 8, ...
        for q in self.quantizers:
            if not q.started:
                q.steps += 1
                if q.steps.bit_count() == 1:
                    q.started = q.scale.is_meta or bool(q.scale != NO_SCALE)  # a meta tensor has no value to tell


def _move(scale: torch.Tensor, seen: torch.Tensor, room: torch.Tensor, carry: torch.Tensor) -> None:
    move = (exponent_of(seen, carry=carry) + room - scale).clamp(-1, 1)
    scale.add_(torch.where((seen > 0) & (scale != NO_SCALE), move, 0))
    seen.zero_()


def _counts(quantizer: Quantizer) -> tuple[int, int]:
    """What is added to the exponent of the largest |x| seen, and to its bits before."""
    return quantizer.room, quantizer.format.carry(quantizer.rule)
