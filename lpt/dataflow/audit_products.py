"""Proof by value that the operands of each product lie on the grids of their slots, along what that product sums over.

As `audit`, it does not trust the functions that round: it watches the products that PyTorch dispatches, and asks of
each operand whether, block by block along the dimension that is summed over, all values are levels at some scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..formats import Blocks, Format, Octaves
from .attach_products import Multiplied
from .audit import on_grid
from .grids import is_flat
from .kinds import Convolution
from .laying import is_tile
from .modes import Watching
from .products import OPERANDS, module_running
from .slots import PRODUCTS, Slot

_aten = torch.ops.aten
_NEAR = 2.0**-20  # of a value: scales that are no powers of two are rounded, and so are values at them
_Pair = tuple[tuple[str, Tensor], tuple[str, Tensor]]  # slots, and operands with what is summed over last


@dataclass(frozen=True)
class SlotOperand:
    """One operand of one product."""

    product: int  # which product, counted from 0
    module: str
    operator: str
    slot: str
    on_grid: bool
    format: str  # "fp32" for a slot in full precision


class ProductsAudit(Watching):
    """Within it, all products of the modules that round are recorded in `operands`.

        with ProductsAudit(handle) as audit:
            loss(model(x)).backward()
        assert not audit.off_grid()

    Where a module's two gradients have operands of the same shapes, an operand may lie on the grid of either.

    Args:
        handle: that of `attach_products_`.
    """

    def __init__(self, handle: Multiplied) -> None:
        super().__init__()
        self.operands: list[SlotOperand] = []
        self._rounding = handle.rounding
        self._shapes: dict[str, tuple[torch.Size, ...]] = {}  # of the operands of each module's last forward product
        self._products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet in OPERANDS:
            backward = self._tracker.is_bw
            name = module_running(self._tracker, self._ran, backward)
            if name in self._rounding:
                ways = self._convolution(name, packet, args) if "convolution" in str(packet) else None
                self._record(name, packet, list(ways or self._matrices(name, packet, args, out, backward)))
        return out

    def off_grid(self) -> list[SlotOperand]:
        """The operands that do not lie on their slot's grid."""
        return [o for o in self.operands if not o.on_grid]

    def _record(self, name: str, packet: Any, ways: list[_Pair]) -> None:
        slots = self._rounding[name].product.slots
        matrix = "convolution" not in str(packet)
        checked = [[(slot, self._lies(slot, slots.get(slot), t, matrix)) for slot, t in way] for way in ways]
        best = next((way for way in checked if all(fits for _, fits in way)), checked[0])
        self._products += 1
        for slot, fits in best:
            format = slots[slot].grid.name if slot in slots else "fp32"
            self.operands.append(SlotOperand(self._products, name, str(packet), slot, fits, format))

    def _lies(self, name: str, slot: Slot | None, t: Tensor, matrix: bool) -> bool:
        if slot is None or not slot.rounds:
            return True
        grid = slot.grid
        if is_flat(slot) and name in ("dgrad_w", "wgrad_e", "wgrad_x") and matrix:
            t = t.transpose(-2, -1)  # as the model has it
        if isinstance(slot.unsigned, Blocks) and not (t < 0).any():
            grid = slot.unsigned
        return on_blocks(t, grid) if isinstance(grid, Blocks) else on_grid(t.contiguous(), grid)

    def _matrices(self, name: str, packet: Any, args: Any, out: Tensor, backward: bool) -> Iterator[_Pair]:
        """What the operands of a matrix product may be: each way round, since torch transposes some products."""
        positions = OPERANDS[packet]
        left, right = (t for at, t in zip(positions, args, strict=False) if at is not None)
        if not backward:
            module: Any = self._rounding[name].module
            self._shapes[name] = (left.shape, right.shape)
            if getattr(module, "weight", None) is not None:
                self._shapes[name] = (left.shape, module.weight.shape)
        summed = left, right.transpose(-2, -1) if right.ndim > 1 else right
        x, w = self._shapes.get(name, (None, None))
        for product in ("forward",) if not backward else ("dgrad", "wgrad"):
            first, second = PRODUCTS[product]
            wanted = {"dgrad": x, "wgrad": w}.get(product)
            alike = wanted is None or sorted(out.shape) == sorted(wanted) or x == w or math.prod(wanted) == out.numel()
            if alike:
                yield (first, summed[0]), (second, summed[1])
                yield (second, summed[0]), (first, summed[1])

    def _convolution(self, name: str, packet: Any, args: Any) -> Iterator[_Pair]:
        kind: Any = self._rounding[name].product.kind
        assert isinstance(kind, Convolution)
        if packet is _aten.convolution:
            x, w = (kind.arranged(operand, t) for operand, t in zip("xw", args, strict=False))
            yield ("x", x), ("w", w)
            return
        error, x, w = args[:3]
        slots = self._rounding[name].product.slots
        if args[-1][0]:
            weight = kind.arranged("w", w)
            own = "dgrad_w" in slots and is_flat(slots["dgrad_w"])
            yield ("dgrad_e", kind.arranged("e", error)), ("dgrad_w", weight if own else weight.transpose(-2, -1))
        if args[-1][1]:
            pair = []
            for slot, t in (("wgrad_e", kind.arranged("e", error)), ("wgrad_x", kind.arranged("x", x))):
                stays = slot in slots and (is_tile(slots[slot].grid.block) or is_flat(slots[slot]))
                pair.append((slot, t if stays else t.movedim(0, -1)))
            yield pair[0], pair[1]


def on_blocks(x: Tensor, format: Blocks) -> bool:
    """Whether each block of x along its last dimension holds levels of the element format, times some scale.

    The scale is a power of two where the format has such scales. A block's largest value is one of the levels, and the
    scale follows from which: all are tried. Of squeezed blocks, whose levels are powers of unknown numbers, it counts
    whether there are no more of them than the format has.
    """
    if x.numel() == 0:
        return True
    if format.scale == "static":
        return format.round(x).equal(x)
    if format.scale == "squeeze":
        return x.unique().numel() <= len(format.values())
    blocks = _blocks(x.detach().double(), format.block)
    amax = blocks.abs().amax(1, keepdim=True)
    found = amax[:, 0] == 0
    for level in sorted({abs(v) for v in levels_of(format.element)} - {0.0}, reverse=True):
        if found.all():
            break
        unit = amax / level
        possible = ~found & (unit[:, 0] > 0)
        if format.scale == "e8m0":
            possible &= torch.frexp(unit[:, 0]).mantissa == 0.5
        if possible.any():
            y = blocks[possible] / unit[possible]
            found[possible] = ((format.element.round(y) - y).abs() <= _NEAR * y.abs()).all(1)
    return bool(found.all())


def levels_of(element: Format) -> list[float]:
    """Its values; of an integer too wide for a list of its own, those that are not negative."""
    if element._levels is not None:
        return element._levels
    assert isinstance(element, Octaves)
    steps = 2 ** element.valid_bits[0]
    return [2.0 * i / steps for i in range(steps)]


def _blocks(x: Tensor, block: tuple[int, ...]) -> Tensor:
    """[blocks, elements], filled up with zeros; of a tile, rows along the last dimension but one."""
    columns, rows = block[-1], block[0] if len(block) == 2 and x.ndim > 1 else 1
    x = x[None] if x.ndim == 1 else x
    columns, rows = min(columns, x.shape[-1]), min(rows, x.shape[-2])
    x = torch.nn.functional.pad(x, (0, -x.shape[-1] % columns, 0, -x.shape[-2] % rows))
    return x.unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows)).transpose(-3, -2).flatten(-2).flatten(0, -2)
