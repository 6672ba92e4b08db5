"""One quantized weight: the parameter, its master beside it, and what was last written into the parameter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..formats.kernels import Library
from .dtypes import holds, master_dtype, several_processes, short
from .followed import Followed
from .scales import LEARNED, first
from .step import Plan, Seen, step, step_rows
from .written import unchanged


class Weight(Followed):
    """A parameter that holds a quantized weight, and the master that takes its place while an optimizer steps.

    Others may write into the parameter: a load, `clamp_`, `nn.init`, an optimizer that nobody told us of. So what we
    wrote there last is kept, and compared by value: writes by way of `.data` move no version counter.

    Attributes:
        name: of the parameter in its model.
        param: the parameter.
        master: its full-precision value: float64 for a float64 parameter, float32 for all others.
        scale: of the grid that the parameter lies on; broadcasts against `channels.view(param)`.
        upcoming: with delayed scaling, the scale of the next step, with scales that train, theirs; None otherwise.
        memory: what a remedy or a scheme keeps of it, by name: in the parameter's shape, or of no dimension.
        keys: int64 [uses]; where its random bits begin, one use after the other.
        before_load: what was here before state dicts were loaded since the last step; to be cleared with it.
        flips, seen: level flips and regrid flips, int64 [2], among `seen` elements times steps.
    """

    def __init__(
        self, name: str, param: nn.Parameter, plan: Plan, channels: Seen, keys: Tensor,
        remembers: Callable[[Tensor], dict[str, Tensor]],
    ) -> None:  # fmt: skip
        self.name, self.param, self.plan, self.channels, self.keys = name, param, plan, channels, keys
        self.remembers = remembers  # master -> what a remedy keeps of it
        self.seen = 0  # elements times steps
        self.flips = torch.zeros(2, dtype=torch.int64, device=param.device)  # level and regrid flips among them
        self._inside = False  # whether the parameter holds the master
        self._watched = False  # whether a write into the quantized weight meanwhile would be seen
        self._grad: Tensor | None = None
        self._kernel_of: Library | None = None  # whose kernel it is that makes the next value
        self._kernel: Any = None
        self.before_load: list[tuple[Tensor, Tensor, Tensor, Tensor | None, dict[str, Tensor]]] = []
        self.begin()

    def begin(self) -> None:
        """Take the parameter as the new master and quantize it to nearest.

        Raises:
            ValueError: the parameter's dtype does not hold the format's values.
        """
        p = self._at_rest()
        if p.dtype != master_dtype(p) and not holds(p.dtype, self.plan):
            raise ValueError(
                f"{self.name!r} is {short(p.dtype)}, which does not hold the values of {self.plan.format.name}: keep "
                "the model in float32 (torch.autocast computes in less), or choose a narrower format"
            )
        self.master = p.to(master_dtype(p), copy=True, memory_format=torch.preserve_format)
        view = self.channels.view(self.master)
        trains = self.plan.scaling == LEARNED
        self.scale = first(view, self.plan.format) if trains else self.channels.scale(view, self.plan)
        self.upcoming = self.scale.clone() if trains or self.plan.scaling == "delayed" else None
        self.channels.view(p).copy_(self.plan.format.round(view, scale=self.scale))
        self.written = p.clone()
        self.quantized = p
        self.memory = self._new_memory()
        self._mark = (p._version, p.data_ptr())

    def exchange(self, plan: Plan) -> None:
        """From now on go by this plan, which is of the same format."""
        self.plan, self._kernel_of = plan, None

    def _new_memory(self) -> dict[str, Tensor]:
        own = self.plan.begin(self.master, self.param.detach())
        self._chooses = tuple(own)
        return {**own, **self.remembers(self.master)}

    @property
    def narrow(self) -> bool:
        """Whether the parameter's dtype is not its master's."""
        return self.param.dtype != self.master.dtype

    # -- around the optimizer's step ----------------------------------------------------------------------------------

    def put_in(self) -> None:
        """Let the parameter hold its master, and a gradient of the master's dtype; nothing else is copied.

        Raises:
            ValueError: the dtypes differ and other processes take part: torch would forget the parameter's all-reduce.
        """
        p = self.param
        same = not self.narrow
        if not same and several_processes():
            raise ValueError(
                f"{self.name!r} is {short(p.dtype)}, and its master would not be all-reduced among several processes: "
                "keep the model in float32, torch.autocast computes in less"
            )
        self.quantized = p.data
        p.data = self.master
        self._inside = True
        if not same and p.grad is not None:
            self._grad = p.grad
            p.grad = None
            p.grad = self._grad.to(self.master.dtype)

    def watch(self, same: bool, closely: bool) -> None:
        """Before the masters go in: remember the quantized weight, if that costs no waiting (or `closely`).

        Args:
            same: what `follow` said.
        """
        p = self.param
        self._watched = same or (closely and not p.is_cpu and not p.is_meta and unchanged(p, self.written))

    def put_back(self) -> bool:
        """After a watched step: whether it wrote into the quantized weight instead of the master. That is undone."""
        moved = self._watched and not unchanged(self.quantized, self.written)
        if moved:
            self.quantized.copy_(self.written)
        return moved

    def take_out(self) -> None:
        """Let the parameter hold its quantized weight again; the master is what the step made of it."""
        if not self._inside:
            return
        self._inside = False
        p = self.param
        if p.data_ptr() != self.master.data_ptr():  # the step put a tensor of its own there
            self.master = torch.empty_like(self.quantized, dtype=self.master.dtype).copy_(p.detach())
        kept = p.grad is not None and self._grad is not None
        if self._grad is not None:
            p.grad = None
        p.data = self.quantized
        if kept:
            p.grad = self._grad
        self._grad = None

    def next(self, kernels: Library | None, key: Tensor | None) -> Tensor:
        """Write the next quantized weight over the last one; level flips and regrid flips, int64 [2]."""
        three, state = (self.master, self.quantized, self.written), [self.memory[name] for name in self._chooses]
        rows = [] if kernels is None else [self.channels.memory(t) for t in three]
        if kernels is not None and all(r is not None for r in rows):
            scales = [None if s is None else s.view(-1, 1) for s in (self.scale, self.upcoming)]
            if kernels is not self._kernel_of:
                self._kernel_of, self._kernel = kernels, kernels.kernel(step_rows, self.plan)
            kept = [self.channels.memory(t) if t.ndim else t for t in state]
            flips: Tensor = self._kernel(*rows, *scales, key, *kept)
        else:
            master, quantized, written = (self.channels.view(t) for t in three)
            seen = [self.channels.view(t) if t.ndim else t for t in state]
            flips = step(self.plan, self.channels, master, quantized, written, self.scale, self.upcoming, key, seen)
        self._mark_now()
        return flips

    def strays(self) -> bool:
        """Whether others have written what is on no grid; on other devices than the CPU if torch noticed the write."""
        p = self.param.detach()
        if self._inside or (not p.is_cpu and self._mark == (p._version, p.data_ptr())):
            return False
        if unchanged(p, self.written):
            self._mark_now()
            return False
        return not torch.equal(self.rounded(p.to(self.master.dtype)).to(p.dtype), p)

    def rounded(self, values: Tensor) -> Tensor:
        """These values on the grid of their own scale, to nearest."""
        view = self.channels.view(values)
        rounded = torch.empty_like(values)
        levels = self.plan.format.round(view, scale=self.scale_of(view))
        self.channels.view(rounded).copy_(levels)
        return rounded

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        found = {"masters": self.master, "quantized": self.param.detach(), "scales": self.scale}
        found |= {} if self.upcoming is None else {"upcoming": self.upcoming}
        return found | {f"memory/{name}": kept for name, kept in self.memory.items()}

    def why_not(self, state: Mapping[str, Any]) -> str:
        """Why this is no state of this weight; "" if it is."""
        for what, own in self.state().items():
            saved = state.get(what, {}).get(self.name)
            if saved is None:
                return f"{what} of {self.name!r} are not in it"
            if saved.shape != own.shape:
                return f"{what} of {self.name!r} have shape {tuple(saved.shape)}, not {tuple(own.shape)}"
            if saved.dtype != own.dtype:
                return f"{what} of {self.name!r} are {short(saved.dtype)}, not {short(own.dtype)}"
        return ""

    def load(self, state: Mapping[str, Any]) -> None:
        for what, own in self.state().items():
            own.copy_(state[what][self.name])
        self.wrote()
