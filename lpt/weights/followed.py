"""What others have done to a quantized weight between two steps is taken over by its master."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .dtypes import master_dtype
from .scales import LEARNED
from .step import Plan, Seen
from .written import unchanged, written


class Followed:
    """What a `Weight` is while no optimizer steps; its attributes are described there."""

    name: str
    param: nn.Parameter
    plan: Plan
    channels: Seen
    master: Tensor
    scale: Tensor
    upcoming: Tensor | None
    written: Tensor
    quantized: Tensor
    keys: Tensor
    flips: Tensor
    memory: dict[str, Tensor]
    before_load: list[tuple[Tensor, Tensor, Tensor, Tensor | None, dict[str, Tensor]]]
    _inside: bool
    _mark: Any

    def scale_of(self, view: Tensor) -> Tensor:
        """The scale of values seen by `channels.view`: theirs, or the one that has been trained."""
        if self.plan.scaling == LEARNED:
            assert self.upcoming is not None
            return self.upcoming.clone()
        return self.channels.scale(view, self.plan)

    def begin(self) -> None:
        raise NotImplementedError

    def _new_memory(self) -> dict[str, Tensor]:
        raise NotImplementedError

    def follow(self) -> bool:
        """Take over what has been done to the parameter: its device, dtype and memory format, and its values.

        Element by element: a value that is still the one we wrote keeps its master, any other is its own new master.
        So clamping, renormalizing or pruning costs no precision where it changes nothing. What may have been written
        with the value that it had, `written` decides; on other devices than the CPU only if torch noticed the write.

        Returns:
            Whether it is known that nothing was written.

        Raises:
            ValueError: the parameter has another shape now.
        """
        p = self._at_rest()
        self._fit(p)
        self.quantized = p
        if p.is_cpu and unchanged(p, self.written):
            return True
        # On other devices no answer is waited for if torch knows of no write, so the masters are written in any case.
        noticed = p.device.type == "cpu" or self._mark != (p._version, p.data_ptr())
        now, before, master = (self.channels.view(w) for w in (p, self.written, self.master))
        new = written(now, before, master, self.scale, self.scale_of, self.plan.format) if noticed else now != before
        master.copy_(torch.where(new, now.to(master.dtype), master))
        for name, fresh in (self._new_memory() if self.memory else {}).items():
            if fresh.ndim:
                kept, begun = self.channels.view(self.memory[name]), self.channels.view(fresh)
                kept.copy_(torch.where(new, begun, kept))
        return False

    def settle(self, closely: bool = True) -> None:
        """`follow`, and put the values that others wrote, and those whose scale they moved, on the grid to nearest.

        Args:
            closely: False, to believe torch on other devices than the CPU that nothing was written.
        """
        p = self._at_rest()
        if not closely and p.device.type != "cpu" and self._mark == (p._version, p.data_ptr()):
            return
        self.follow()
        if not torch.equal(p, self.written):
            p, written, master = (self.channels.view(w) for w in (p, self.written, self.master))
            scale = self.scale_of(master)
            elsewhere = (p != written) | self.plan.format.moved(scale, self.scale, p)
            p.copy_(torch.where(elsewhere, self.plan.format.round(master, scale=scale).to(p.dtype), p))
            self.scale = scale
            self.upcoming = None if self.upcoming is None else scale.clone()
        self.wrote()

    def wrote(self) -> None:
        """Keep what the parameter holds now as what we wrote."""
        p = self.param.detach()
        self.written.copy_(p)
        self._mark_now()

    def _mark_now(self) -> None:
        p = self.param.detach()
        self._mark = (p._version, p.data_ptr())

    def loaded(self) -> None:
        """A state dict was loaded into the parameter: values that differ anywhere make it a new weight altogether.

        Until the next step what was there before is kept, the last two of them, so that to load an average, evaluate
        it, and load what was there again costs no masters.
        """
        p = self._at_rest()
        if p.shape == self.master.shape:
            self._fit(p)
            if torch.equal(p, self.written):
                return
            again = [held for held in self.before_load if torch.equal(p, held[0].to(p))]
            before = (self.written, self.master, self.scale, self.upcoming, self.memory)
            self.before_load = [*self.before_load[-1:], before]
            if again:
                self.written, self.master, self.scale, self.upcoming, self.memory = again[0]
                self._fit(p)
                return
        self.begin()

    def _at_rest(self) -> Tensor:
        if self._inside:
            raise RuntimeError(f"{self.name!r} holds its master: call update() or restore() first")
        return self.param.detach()

    def _fit(self, p: Tensor) -> None:
        if p.shape != self.master.shape:
            raise ValueError(
                f"{self.name!r} has shape {tuple(p.shape)} now and had {tuple(self.master.shape)} when it was "
                "quantized: call refresh() on the handle of the quantized weights"
            )
        if (p.device, p.dtype, p.stride()) != (self.written.device, self.written.dtype, self.written.stride()):
            self.master = torch.empty_like(p, dtype=master_dtype(p)).copy_(self.master)
            self.written = torch.empty_like(p).copy_(self.written)
            self.scale, self.keys, self.flips = (t.to(p.device) for t in (self.scale, self.keys, self.flips))
            self.upcoming = None if self.upcoming is None else self.upcoming.to(p.device)
            self.memory = {
                name: torch.empty_like(p, dtype=kept.dtype).copy_(kept) if kept.ndim else kept.to(p.device)
                for name, kept in self.memory.items()
            }
