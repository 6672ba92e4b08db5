"""What the slots of one product make of its operands, and which random bits they draw."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..formats.eden import round_eden
from ..formats.scaling import to_scale_0
from .delayed import History
from .estimators import passes
from .grids import from_whole, is_flat, is_kernel, to_grid, whole
from .keeping import Kept
from .kinds import Kind
from .laying import is_tile
from .rounding import NARROW, Rounding, fits_bfloat16, lost
from .slots import OF, PRODUCTS, SLOTS, Hadamard, Products, Slot, transform_of
from .switching import Switches, again
from .transforms import left_over, random_signs, transformed, undone

_FIRST = {pair[0] for pair in PRODUCTS.values()}  # what is left over of a transform is taken out of this operand
_BACK = {"x": "dgrad_w", "w": "wgrad_x"}  # operand -> what its gradient is made of, besides an error
_USES = (*SLOTS, *PRODUCTS)  # of random bits: of each slot, and of each product's signs
_KEY_BITS = 61


class Product:
    """What the slots of one module make of its operands.

    Args:
        name: of the module.
        kind: of its product.
        slots: those that ask for something.
        products: what else was asked for.
        rank: of this process. Activations and errors have random bits of their own on each; weights and signs do not.
        switches: shared by all products of a model.

    Attributes:
        keys: int64, where the random bits of each use begin; None where none are used.
        calls: int64, 0-dim: how often the product ran in training, and so how far each key has moved.
        shared: slots of the backward pass -> the slot whose rounded tensor they read.
        plain: of the slots that only round: how, where the operand lies.
        histories: of slots whose scale follows from the tensors before.
        counts: slot -> elements, those beyond the largest level, those that became zero.
    """

    def __init__(
        self, name: str, kind: Kind, slots: Mapping[str, Slot], products: Products, rank: int,
        switches: Switches | None = None,
    ) -> None:  # fmt: skip
        self.name, self.kind, self._all = name, kind, dict(slots)
        self.switches = switches or Switches()
        self.counts: dict[str, Tensor] = {}
        self.rule, self.room = products.scale_rule, products.room
        self.histories = {n: History(s.follows, s.grid.high) for n, s in slots.items() if s.follows is not None}
        self.leave()
        fresh = any(slot.turn is not None and slot.turn.signs == "fresh" for slot in slots.values())
        self.keys: Tensor | None = None
        self.calls = torch.tensor(0)
        if fresh or any(slot.random for slot in slots.values()):
            ranks = {use: 0 if use in PRODUCTS or use in ("w", "dgrad_w") else rank for use in _USES}
            draws = [random.Random(f"{products.seed}/{name}/{use}/{ranks[use]}") for use in _USES]
            self.keys = torch.tensor([draw.getrandbits(_KEY_BITS) for draw in draws])
        key = torch.tensor(random.Random(f"{products.seed}/signs").getrandbits(_KEY_BITS))
        turns = {slot.turn for slot in slots.values() if slot.turn is not None}
        self._given = {t: torch.tensor(t.signs).float() for t in turns if not isinstance(t.signs, str)}
        self._given |= {t: random_signs(t.size, key) for t in turns if t.signs == "fixed"}

    def leave(self, full: Collection[str] = ()) -> None:
        """Leave the products `full`, of forward, dgrad and wgrad, in full precision, and these alone."""
        self.slots = {name: slot for name, slot in self._all.items() if OF[name] not in full}
        self.transforms = {product: transform_of(product, self.slots) for product in PRODUCTS}
        pairs = {"dgrad_w": "w", "wgrad_x": "x", "wgrad_e": "dgrad_e"}
        self._wide = {name for name, slot in self.slots.items() if slot.rounds and not fits_bfloat16(slot.grid)}
        self.shared = {b: a for b, a in pairs.items() if self._asks(a) == self._asks(b) is not None}
        self.plain = {
            name: Rounding(slot, self.kind, name, name in self._wide, self.rule, self.room, self.switches)
            for name, slot in self.slots.items()
            if self.transforms[OF[name]] is None and slot.turn is None and Rounding.takes(slot)
        }

    def next_keys(self, device: torch.device, advance: bool) -> Tensor | None:
        """The keys of one run of the product and of its gradients."""
        if self.keys is None:
            return None
        if self.keys.device != device:
            self.keys, self.calls = self.keys.to(device), self.calls.to(device)
        if advance and not again():
            self.calls = self.calls + 1  # another tensor: what is compiled may read this one again, in its backward
        return self.keys + self.calls

    def operand(self, kind: Kind, name: str, t: Tensor, keys: Tensor | None, observing: bool = False) -> Tensor:
        """What the product of slot `name` multiplies, made from t; in t's shape. `observing`: histories see it."""
        slot, transform = self.slots.get(name), self.transforms[OF[name]]
        t = t.detach()  # torch multiplies batches in another way where a gradient is asked for
        if transform is None and (slot is None or not slot.rounds):
            return t
        if name in self.plain:
            rounding, key = self.plain[name], self._key(name, keys)
            if not self.switches.counting:
                return rounding.operand(t, key)
            at = rounding.laid(t)
            q = rounding(at, key)
            self._count(name, rounding.counted(at, q))
            return at.back(q)
        y, size = self._turned(kind, name, t, keys)
        natural = is_flat(slot)
        y = before = kind.restored(name[-1], y, t) if natural else y
        factor = self.histories[name].at(y.device) if name in self.histories else None
        if slot is not None and slot.rounding == "eden":
            assert keys is not None
            y = round_eden(slot.grid, y, self._dim(name), size, keys[_USES.index(name)])  # type: ignore[arg-type]
        elif slot is not None and slot.rounds:
            y = self._rounded(name, y, self._key(name, keys), observing)
        if self.switches.counting and slot is not None and slot.rounds:
            at_scale_0 = before * factor if factor is not None else self._at_scale_0(name, before)
            self._count(name, lost(at_scale_0, before, y, slot.grid))
        if transform is not None and name in _FIRST:
            y = y / left_over(size, transform.orthonormal)
        return y if natural else kind.restored(name[-1], y, t)

    def passing(self, kind: Kind, name: str, t: Tensor, keys: Tensor | None) -> Tensor | None:
        """Where a gradient passes back to operand "x" or "w" of the forward product: bool, in t's shape; None: all."""
        slot = self.slots.get(name)
        if slot is None or slot.gradient == "straight":
            return None
        y, _ = self._turned(kind, name, t.detach(), keys)
        own: Any = slot.grid if slot.grid.block is None else slot.grid.element  # type: ignore[attr-defined]
        if is_flat(slot):
            return passes(slot.gradient, own, self._at_scale_0(name, kind.restored(name, y, t)))
        return kind.restored(name, passes(slot.gradient, own, self._at_scale_0(name, y)), t)

    def returned(self, kind: Kind, name: str, g: Tensor, passing: Tensor | None, keys: Tensor | None) -> Tensor:
        """The gradient of operand "x" or "w", of what a backward product made; in g's shape."""
        over = self._over_tokens() if name == "x" else None
        turned = self.slots[back].source == "turned" if (back := _BACK[name]) in self.slots else False
        transform = self.transforms["forward"] if turned or passing is not None else None
        if over is None and transform is None and passing is None:
            return g
        y = kind.arranged(name, g)
        if over is not None:
            dim = kind.dims["wgrad_x"]
            size = over.fitting(y.shape[dim])
            y = undone(y, dim, size, self._signs("dgrad_e", keys, g.device), over.orthonormal)
        if transform is not None:
            dim = kind.dims[name]
            size = transform.fitting(y.shape[dim])
            signs = self._signs(name, keys, g.device)
            if not turned:
                y = transformed(y, dim, size, signs, transform.orthonormal)
            elif name == "w":  # x had been divided by it
                y = y * left_over(size, transform.orthonormal)
        if passing is not None:
            y = torch.where(kind.arranged(name, passing), y, 0.0)
        if transform is not None:
            y = undone(y, dim, size, signs, transform.orthonormal)
        return kind.restored(name, y, g)

    def used(self, kind: Kind, name: str, q: Tensor, keys: Tensor | None) -> Tensor:
        """What the forward product used of operand "x" or "w", its transform undone."""
        transform = self.transforms["forward"]
        if transform is None:
            return q
        y, dim = kind.arranged(name, q), kind.dims[name]
        size = transform.fitting(y.shape[dim])
        y = y * left_over(size, transform.orthonormal) if name in _FIRST else y
        signs = self._signs(name, keys, q.device)
        return kind.restored(name, undone(y, dim, size, signs, transform.orthonormal), q)

    def kept(self, kind: Kind, name: str, t: Tensor, q: Tensor, keys: Tensor | None) -> Kept:
        """What the backward slot `name` needs of an operand t, of which the forward product used q."""
        slot, one = self.slots.get(name), name in self.shared
        source = t
        if one or (slot is not None and slot.source == "turned"):
            source = q
        elif slot is not None and slot.source == "q":
            source = self.used(kind, name[-1], q, keys)
        if self.switches.packed and t.dtype != torch.float64 and not (source is t and t.is_leaf and t.requires_grad):
            # What forward used is on the grid of its slot; all else is rounded now, and not in the backward pass.
            as_used = one or (source is q and slot is not None and not slot.rounds)
            made, of = (name[-1], t) if as_used else (name, source)
            rounding = self.plain.get(made)
            if rounding is not None and rounding.codable:
                return Kept.coded(rounding, rounding.laid(of.detach()), self._key(made, keys))
        return Kept(source)

    def restored(
        self, kind: Kind, name: str, kept: Kept, tensors: Sequence[Any], keys: Tensor | None, observing: bool
    ) -> Tensor:
        """The operand of the backward slot `name`, of what was kept."""
        t = kept.restored(tensors)
        return t if kept.done or name in self.shared else self.operand(kind, name, t, keys, observing)

    def asked(self) -> dict[str, tuple[Slot | None, Hadamard | None]]:
        """What each slot asks for, None for full precision, and the transform of its product."""
        return {name: (self.slots.get(name), self.transforms[OF[name]]) for name in SLOTS}

    def shares(self) -> dict[str, dict[str, float]]:
        """What was counted since `counts` was emptied: by slot, the shares of "saturation" and "underflow"."""
        found = {}
        for name, counts in sorted(self.counts.items(), key=lambda item: SLOTS.index(item[0])):
            elements, beyond, zeroed = counts.tolist()
            found[name] = {"saturation": beyond / max(1, elements), "underflow": zeroed / max(1, elements)}
        return found

    def width(self, product: str, dtype: torch.dtype) -> torch.dtype:
        """What to multiply in where the result is to be `dtype`: float32 where that does not hold an operand's grid."""
        exact = dtype not in NARROW or (dtype == torch.bfloat16 and not self._wide & {*PRODUCTS[product]})
        return dtype if exact or not {*PRODUCTS[product]} & self.slots.keys() else torch.float32

    def _turned(self, kind: Kind, name: str, t: Tensor, keys: Tensor | None) -> tuple[Tensor, int]:
        """t as it is rounded: arranged, and transformed if asked to, by a transform of the size that is returned."""
        transform = self.transforms[OF[name]]
        narrow = t.dtype in NARROW and (transform is not None or name in self._wide)
        y, size = kind.arranged(name[-1], t.float() if narrow else t), 1
        if name == "dgrad_e" and (over := self._over_tokens()) is not None:
            dim = kind.dims["wgrad_e"]
            size = over.fitting(y.shape[dim])
            y = transformed(y, dim, size, self._signs(name, keys, t.device), over.orthonormal)
        if transform is not None:
            dim = kind.dims[name]
            size = transform.fitting(y.shape[dim])
            y = transformed(y, dim, size, self._signs(name, keys, t.device), transform.orthonormal)
        return y, size

    def _key(self, name: str, keys: Tensor | None) -> Tensor | None:
        return keys[_USES.index(name)] if keys is not None and self.slots[name].random else None

    def _count(self, name: str, counts: Tensor) -> None:
        self.counts[name] = self.counts[name] + counts if name in self.counts else counts

    def _over_tokens(self) -> Hadamard | None:
        slot = self.slots.get("dgrad_e")
        return slot.turn if slot is not None and slot.turn is not None and slot.turn.over == "tokens" else None

    def _at_scale_0(self, name: str, y: Tensor) -> Tensor:
        """y / scale, as `_rounded` finds it."""
        slot, dim = self.slots[name], self._dim(name)
        grid: Any = slot.grid
        if grid.block is None:
            return to_scale_0(y, grid.scale_of(y, room=self.room, rule=self.rule) if grid.scaled else 0)
        if is_kernel(slot, self.kind, name):
            return from_whole(grid.widened(len(y)).at_scale_0(whole(y), -1), len(y))
        if is_tile(slot.grid.block) and dim == -2:
            return grid.at_scale_0(y.transpose(-2, -1), -1).transpose(-2, -1)
        return grid.at_scale_0(y, dim)

    def _rounded(self, name: str, y: Tensor, key: Tensor | None, observing: bool) -> Tensor:
        slot, dim, history = self.slots[name], self._dim(name), self.histories.get(name)
        grid: Any = slot.grid
        if history is not None:
            q = to_grid(slot, y, dim, key, scale=history.at(y.device))
            if observing:
                history.see(y)
            return q
        if grid.block is None:
            return to_grid(slot, y, grid.scale_of(y, room=self.room, rule=self.rule) if grid.scaled else 0, key)
        if slot.unsigned is not None:
            negative = (y < 0).any()
            return torch.where(negative, to_grid(slot, y, -1, key), to_grid(slot, y, -1, key, grid=slot.unsigned))
        if is_kernel(slot, self.kind, name):
            return from_whole(to_grid(slot, whole(y), -1, key, grid=grid.widened(len(y))), len(y))
        if is_tile(slot.grid.block) and dim == -2:  # rows lie along the other one of the last two
            return to_grid(slot, y.transpose(-2, -1), -1, key).transpose(-2, -1)
        return to_grid(slot, y, dim, key)

    def _dim(self, name: str) -> int:
        """The dimension that blocks run along; the last wherever it makes no difference."""
        slot, dim = self.slots[name], self.kind.dims[name]
        if slot.grid.block is None or is_flat(slot):
            return -1
        if is_tile(slot.grid.block) and dim == 0:  # of a convolution: tiles of pixels and channels
            return -1
        square = is_tile(slot.grid.block) and slot.grid.block[0] == slot.grid.block[1]
        return -1 if square else dim

    def _asks(self, name: str) -> tuple[Any, ...] | None:
        """All that a rounded tensor depends on, besides what it is made from; None where nothing is asked for."""
        slot, transform = self.slots.get(name), self.transforms[OF[name]]
        if slot is None or not slot.rounds or slot.source != "hp" or slot.rounding == "eden":
            return None
        turned = None
        if transform is not None:
            one = OF[name] if transform.signs == "fresh" else ""
            turned = (transform, self.kind.dims[name], one, name in _FIRST)
        over = self._over_tokens() if name == "dgrad_e" else None
        return slot.grid, slot.rounding, slot.scaling, slot.unsigned, self._dim(name), turned, over

    def _signs(self, name: str, keys: Tensor | None, device: torch.device) -> Tensor | None:
        """Of the transform of the product of slot `name`, or of an operand's alone."""
        transform = self.transforms[OF[name]] or self._over_tokens()
        if transform is None or transform.signs == "none":
            return None
        if transform.signs != "fresh":
            return self._given[transform].to(device)
        assert keys is not None
        return random_signs(transform.size, keys[_USES.index(OF[name])])
