"""One tensor's place in the data flow: its format, a scale that follows it, and its rounding."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..formats import Format
from ..formats.kernels import Code, Kernel, Library, flat, parallel
from ..formats.scaling import NO_SCALE, amax_of, exponent_of
from .passes import (
    at_own_scale,
    at_scale,
    round_to,
    rows,
    see,
    seen_and_rounded,
    seen_and_written,
    sum_of,
)
from .ranks import largest_

if TYPE_CHECKING:
    from .tracing import Tracer


@dataclass
class Mode:
    """What all quantizers of one model do at present; shared by them and switched by their handle."""

    on: bool = True  # quantize at all
    observing: bool = True  # let scales see the data and generators advance
    kernels: Library | None = None  # compiled passes over memory; None computes eagerly
    counting: bool = False  # count saturation, underflow, nan and infinities
    duals: list[Tensor] | None = None  # where an audit collects the sums of two values that were made
    made: Callable[[Tensor, Format, Tensor], None] | None = None  # is told of values, their format and scale
    changes: int = 0  # counts whatever gives the model other quantizers
    tracer: Tracer | None = None  # follows values from Edge to Edge while nothing is quantized

    @contextmanager
    def switched(self, **switches: Any) -> Iterator[None]:
        """Within, these switches are as given."""
        before = {key: getattr(self, key) for key in switches}
        for key, value in switches.items():
            setattr(self, key, value)
        try:
            yield
        finally:
            for key, value in before.items():
                setattr(self, key, value)


class Quantizer:
    """Rounds a tensor to `format` at a scale that is either its own (current) or follows it slowly (tracked).

    A tracked scale starts at the first tensor's exponent + room, the largest of any process's, and then moves in
    `Scales.move`, by one at the most. It is read, but not started or moved, while `observing` is off or the model
    evaluates. Infinities are marks (of a mask, of an overflow) and no magnitudes: they stay what they are, and
    everything finite stays finite.

    Args:
        format: the format.
        room: octaves of headroom.
        tracked: tracked scale, or else current.
        mode: shared switches.
        key: seed of stochastic rounding; None rounds to nearest.
        dual: the sum of two values of the format, x ~ q1 + q2 with q2 = Q(x - q1), as for the network's input.
        rule: when a largest value counts to the octave above, see `Format.carry`.
        shared: both values of a dual one at the scale of the first.
    """

    def __init__(
        self, format: Format, room: int, tracked: bool, mode: Mode, key: str | None = None, dual: bool = False,
        rule: str = "floor", shared: bool = False,
    ) -> None:  # fmt: skip
        self.format = format
        self.room = room
        self.rule = rule
        self.tracked = tracked and format.scaled
        self.mode = mode
        self.started = False  # does the host know that there is a scale?
        self.steps = 0  # that it waited for one
        with torch.inference_mode(False):  # wherever it is made, it lasts
            self.scale = torch.tensor(NO_SCALE, dtype=torch.int32)
            self.seen = torch.tensor(0.0)  # largest finite |x| since the last step
            self.key = None if key is None else torch.tensor(random.Random(key).getrandbits(61))
        own_rest = dual and not shared
        self.rest = Quantizer(format, room, tracked, mode, key and f"{key}/rest", rule=rule) if own_rest else None
        self.shared = dual and shared
        self._kernels: dict[Callable[..., Any], Kernel] = {}  # of what is done to a tensor
        self._single = self.tracked and key is None and not dual
        self._codes: dict[tuple[Any, ...], Code] = {}  # the kernels' code, by what tells it apart
        self.counts: Tensor | None = None  # elements, saturated, underflowed, nan, infinite

    def __call__(self, x: Tensor, training: bool) -> Tensor:
        """x rounded; shape and dtype of x; not differentiated."""
        x = x.detach()
        mode = self.mode
        observing = training and mode.observing
        if not torch.compiler.is_compiling() and self._simple(x):
            code = self._code(seen_and_rounded if observing else at_scale, x)
            if code is not None:
                q = code([x.view(-1), self.scale, self.seen] if observing else [x.view(-1), self.scale])[0]
                return q.view(x.shape).data
        if self.scale.device != x.device or (x.dtype == torch.float64 and self.seen.dtype != torch.float64):
            self.to(x.device, x.dtype)
        key = self.key
        if key is not None and observing:
            key.add_(1)
        q = self._rounded(x, observing, key)
        if mode.counting:
            self._count(x, q, self._scale(x))
        if self.rest is None and not self.shared:
            if mode.made is not None:
                mode.made(q, self.format, self._present(x))
            return q
        if self.rest is not None:
            rest = self.rest(x - q, training)
        else:
            rest = round_to(self.format, x - q, self._present(x), None if key is None else key.bitwise_not())
        q = sum_of(q, rest)
        if mode.duals is not None:
            mode.duals.append(q)
        return q

    def _rounded(self, x: Tensor, observing: bool, key: Tensor | None) -> Tensor:
        run = self._run
        if not self.tracked:
            return run(at_own_scale, (self.format, self.room, self.rule), x, key)
        if not self.started:
            scale = self._scale(x)
            if observing:
                if not torch.compiler.is_compiling():
                    largest_(scale)  # of the whole batch, which the first step rounds at already
                self.scale.copy_(scale)
                see(x, self.seen)
            return round_to(self.format, x, self.format.scale_for(scale), key)
        if observing:
            return run(seen_and_rounded, (self.format,), x, key, self.scale, self.seen)
        return run(at_scale, (self.format,), x, key, self.scale)

    def write(self, x: Tensor) -> None:
        """x.copy_(self(x, True)), by compiled code without a second tensor."""
        x = x.detach()
        if not self._simple(x) or not self.mode.observing or not self.scale.is_cpu or x.dtype != self.seen.dtype:
            x.copy_(self(x, True))
            return
        if (code := self._code(seen_and_written, x)) is not None:
            code([x.view(-1), self.scale, self.seen])
        else:
            self._run(seen_and_written, (self.format,), x, None, self.scale, self.seen)
        torch.autograd.graph.increment_version(x)  # compiled code does not

    def _simple(self, x: Tensor) -> bool:
        """What is called most: one value at a tracked scale, by a kernel, on plain memory, and nobody is to be told."""
        mode = self.mode
        asked = not self._single or not self.started or mode.kernels is None or mode.counting or mode.made is not None
        return not asked and x.is_cpu and x.is_contiguous() and x.numel() > 1

    def _code(self, step: Callable[..., Any], x: Tensor) -> Code | None:
        """The code that this step has used for such tensors."""
        return self._codes.get((self.mode.kernels, step, x.dtype, parallel(x.numel())))

    def __getstate__(self) -> dict[str, Any]:
        """Code is of this process."""
        return {**self.__dict__, "_codes": {}}

    def _run(self, step: Callable[..., Any], constants: tuple[Any, ...], x: Tensor, *rest: Tensor | None) -> Any:
        """step(*constants, x, *rest): on x's memory as it lies, so that one compilation serves every shape."""
        kernels = self.mode.kernels
        if kernels is None or torch.compiler.is_compiling():
            return step(*constants, x, *rest)
        if rest[0] is not None:  # random bits go by an element's index, not by its place in memory
            x = x.contiguous()
        memory = flat(x)
        if memory is None:
            return step(*constants, x, *rest)
        if step is seen_and_rounded and x.device.type != "cpu":
            memory = rows(memory)
        kernel = self._kernels.get(step)
        if kernel is None or kernel.library is not kernels:
            kernel = self._kernels[step] = kernels.kernel(step, *constants)
        q = kernel(memory, *rest)
        if self._single and x.is_cpu and (code := kernel.ready(memory, *rest)) is not None:
            self._codes[kernels, step, x.dtype, parallel(x.numel())] = code
        # No view to autograd, which lets nobody write into those.
        return None if q is None else q.as_strided(x.shape, x.stride()).data

    def _scale(self, x: Tensor) -> Tensor:
        """The exponent of the top octave: the tracked one, or, where there is none, that of x; 0-dim."""
        amax = amax_of(x).reshape(())
        own = exponent_of(amax, self.room, self.format.carry(self.rule, amax.dtype))
        return torch.where(self.scale == NO_SCALE, own, self.scale) if self.tracked else own

    def _present(self, x: Tensor) -> Tensor:
        """The scale that x was rounded at."""
        return self.format.scale_for(self.scale if self.tracked and self.started else self._scale(x))

    def _count(self, x: Tensor, q: Tensor, scale: Tensor) -> None:
        unit = torch.exp2(self.format.scale_for(scale).double())
        infinite = x.isinf()
        counts = torch.stack(
            [
                torch.tensor(x.numel(), device=x.device),
                (((x > self.format.high * unit) | (x < self.format.low * unit)) & ~infinite).sum(),
                ((q == 0) & (x != 0)).sum(),
                x.isnan().sum(),
                infinite.sum(),
            ]
        )
        self.counts = counts if self.counts is None else self.counts + counts

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """Move to `device`, and keep what is seen in float64 if that is what is rounded."""
        self._codes.clear()
        with torch.inference_mode(False):
            self.scale = self.scale.to(device)
            self.seen = self.seen.to(device, torch.float64 if dtype == torch.float64 else self.seen.dtype)
            self.key = None if self.key is None else self.key.to(device)

    def parts(self) -> list[Quantizer]:
        """This quantizer and, for a dual one with two scales, its second part."""
        return [self] if self.rest is None else [self, self.rest]

    @property
    def form(self) -> str:
        """How it writes a value: "" as one of the format, "dual" or "dual_shared" as the sum of two."""
        return "dual_shared" if self.shared else "dual" if self.rest is not None else ""

    def state_dict(self) -> dict[str, object]:
        return {"scale": self.scale.clone(), "seen": self.seen.clone(), "key": self.key}

    def load_state_dict(self, state: dict[str, object]) -> None:
        seen = state["seen"]
        if isinstance(seen, Tensor) and seen.dtype == torch.float64:
            self.to(self.scale.device, torch.float64)
        for name in ("scale", "seen", "key"):
            saved, own = state[name], getattr(self, name)
            if isinstance(own, Tensor) and isinstance(saved, Tensor):
                own.copy_(saved)
        self.started = bool(self.scale != NO_SCALE)
