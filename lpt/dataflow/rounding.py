"""One slot's rounding of one operand: in a pass over its memory, eagerly or by a kernel, also within a graph."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..formats import Format
from ..formats.block_codes import decoded, encoded, fits, packed, unpacked
from ..formats.kernels import Fixed
from ..formats.operators import operator
from ..formats.scaling import to_scale_0
from ..formats.shelf import Unkeyable
from .kinds import Kind
from .laying import Cut, Laid, cut, laid
from .slots import Slot
from .switching import Switches

# Rules by which a block's scale depends on its largest magnitude, and so on no zeros.
BY_THE_LARGEST = ("floor", "even", "ceil", "rceil", "amax", "pow2", "inverse", "four_six", "four_six_mae")
LONGEST = 1024  # elements of a block for which a kernel is compiled
NARROW = (torch.bfloat16, torch.float16)
OPERAND = "(Tensor t, Tensor? key) -> Tensor"


class Rounding:
    """What `slot` makes of an operand.

    Args:
        slot: it rounds.
        kind, name: of the product, of the slot.
        wide: whether bfloat16 and float16 do not hold its values.
        rule, room: of a format with one scale a tensor.
        switches: of the model's products, which may have kernels.
    """

    def __init__(self, slot: Slot, kind: Kind, name: str, wide: bool, rule: str, room: int, switches: Switches) -> None:
        self.grid: Any = slot.grid
        self.kind, self.name, self.over, self.wide = kind, name[-1], kind.over[name], wide
        self.random, self.rule, self.room, self.switches = slot.random, rule, room, switches
        self.codable = fits(self.grid)

    @staticmethod
    def takes(slot: Slot) -> bool:
        """Whether a slot only rounds, by blocks that zeros behind them do not change."""
        grid: Any = slot.grid
        if not slot.rounds or slot.rounding not in ("nearest", "stochastic"):
            return False
        return grid.block is None or (grid.lies == "" and grid.local and grid.rule in BY_THE_LARGEST)

    def laid(self, t: Tensor) -> Laid:
        """The operand t, of the product's shape, in memory of its own order."""
        t = t.float() if self.wide and t.dtype in NARROW else t
        # Random bits go by an element's place in the operand.
        return laid(t, self.kind.lay(self.name, t), self.over, not self.random)

    def operand(self, t: Tensor, key: Tensor | None) -> Tensor:
        """The operand t rounded, in its shape."""
        if torch.compiler.is_compiling() and t.device.type == "cpu" and (name := self._operator()):
            made: Tensor = getattr(torch.ops.lpt, name)(t, key)
            return made
        at = self.laid(t)
        return at.back(self(at, key))

    def __call__(self, at: Laid, key: Tensor | None) -> Tensor:
        """The operand rounded; as many elements in the same order."""
        y = at.y
        if y.numel() == 0:
            return y
        if self.grid.block is None:
            return self._run(y.view(-1), key, ())
        parts = self.cut(at)
        return parts.joined(self._run(parts.x, key, parts.inner))

    def cut(self, at: Laid) -> Cut:
        return cut(at.y, at.lay, at.over, self.grid.block)

    def counted(self, at: Laid, q: Tensor) -> Tensor:
        """int64 [3]: elements, those beyond the largest level, infinities aside, and those that became zero in q."""
        y = at.y
        if y.numel() == 0:
            return torch.zeros(3, dtype=torch.int64, device=y.device)
        x = y if y.dtype == torch.float64 else y.float()
        if self.grid.block is None:
            return lost(to_scale_0(x, self._scale(x)), y, q, self.grid)
        parts = cut(x, at.lay, at.over, self.grid.block)
        at_scale_0 = to_scale_0(parts.x, self.grid.applied(self.grid.scale_parts(parts.x, parts.inner)))
        return lost(parts.joined(at_scale_0), y, q, self.grid)

    def coded(self, at: Laid, key: Tensor | None) -> tuple[Tensor, ...]:
        """The operand rounded, as codes and scales; `codable` says whether it can be."""
        if self.grid.block is None:
            scale = self._scale(at.y)
            return packed(self.grid, self.grid.encode(at.y.view(-1), scale, key)), torch.as_tensor(scale)
        parts = self.cut(at)
        return encoded(self.grid, parts.inner, parts.x, key)

    def decoded(self, at: Laid, tensors: tuple[Tensor, ...]) -> Tensor:
        """As `__call__`, of what `coded` made of an operand like `at`, whose values do not matter."""
        if self.grid.block is None:
            codes = unpacked(self.grid, tensors[0], at.y.numel())
            return self.grid.decode(codes, tensors[1]).to(at.y.dtype)
        parts = self.cut(at)
        return parts.joined(decoded(self.grid, parts.inner, parts.x.shape, tensors).to(at.y.dtype))

    def _scale(self, y: Tensor) -> Tensor | int:
        return self.grid.scale_of(y, room=self.room, rule=self.rule).view(()) if self.grid.scaled else 0

    def _run(self, x: Tensor, key: Tensor | None, inner: tuple[int, ...]) -> Tensor:
        """x, rounded in blocks over `inner`: by a kernel into which their sizes are compiled, if there are kernels."""
        kernels = self.switches.kernels
        step, constants, fixed = self._definition(inner)
        if kernels is None or torch.compiler.is_compiling() or any(x.shape[d] > LONGEST for d in inner):
            return step(*constants, x, key)  # type: ignore[no-any-return]
        return kernels.kernel(step, *constants, fixed=fixed)(x, key)  # type: ignore[no-any-return]

    def _definition(self, inner: tuple[int, ...]) -> tuple[Any, tuple[Any, ...], Fixed]:
        """A kernel's function and constants, and what is compiled in."""
        if self.grid.block is None:
            return in_one, (self.grid, self.rule, self.room), ()
        return in_blocks, (self.grid, inner), tuple((0, d) for d in inner)

    def _operator(self) -> str:
        """What a graph that is being traced calls in place of the definition; "" if it is to hold the definition."""
        kernels = self.switches.kernels
        if kernels is None or not kernels.ahead or torch.compiler.is_exporting():
            return ""
        own = copy.copy(self)  # its library stays, whatever becomes of this product's
        own.switches = Switches(kernels=kernels)

        def run(t: Tensor, key: Tensor | None) -> Tensor:
            q = own.operand(t, key)
            return q if q.numel() else q.clone()  # an operator returns nothing that it was given

        def like(t: Tensor, key: Tensor | None) -> Tensor:
            at = own.laid(t)
            return at.back(at.y.new_empty(at.y.shape))  # whose strides are as usual also where a size is 1

        lies = f"{type(self.kind).__name__} {getattr(self.kind, 'groups', 1)} {self.name} {self.over}"
        told = (self.grid, lies, self.wide, self.random, self.rule, self.room)
        try:
            return operator("operand", told, kernels, OPERAND, run, like)
        except Unkeyable:
            return ""

    _operator._dynamo_marked_constant = True  # type: ignore[attr-defined]  # it is asked while torch.compile traces


def in_blocks(format: Any, inner: tuple[int, ...], x: Tensor, key: Tensor | None) -> Tensor:
    """x in blocks that lie over the dimensions `inner`, rounded."""
    q: Tensor = format.round_tiles(x, inner, key)
    return q


def in_one(format: Format, rule: str, room: int, x: Tensor, key: Tensor | None) -> Tensor:
    """x rounded at one scale, its own."""
    return format.round(x, format.scale_of(x, room=room, rule=rule) if format.scaled else 0, key)


def lost(at_scale_0: Tensor, y: Tensor, q: Tensor, grid: Any) -> Tensor:
    """int64 [3]: elements of y, those beyond the largest level, infinities aside, and those that became zero in q.

    Args:
        at_scale_0: y divided by its scales; q: y rounded. Both have y's elements in y's order.
    """
    element = grid if grid.block is None else grid.element
    y, q, x = (t.reshape(-1) for t in (y, q, at_scale_0))
    beyond = (((x > element.high) | (x < element.low)) & ~y.isinf()).sum()
    return torch.stack([torch.full_like(beyond, y.numel()), beyond, ((y != 0) & (q == 0)).sum()])


def fits_bfloat16(grid: Any) -> bool:
    """Whether every value, at any power of two, is a bfloat16 and no other factor comes in."""
    if grid.block is not None:
        return grid.scale == "e8m0" and fits_bfloat16(grid.element)
    return grid.name == "bf16" or (grid._levels is not None and bool((grid.values().bfloat16() == grid.values()).all()))
