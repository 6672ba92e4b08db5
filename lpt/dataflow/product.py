"""One product and its two gradients as one autograd function, which rounds the operands of each where they are used."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .kinds import Kind
from .slots import PRODUCTS, SLOTS, Products, Slot, transform_of
from .transforms import left_over, random_signs, transformed, undone

_OF = {name: product for product, pair in PRODUCTS.items() for name in pair}  # slot -> its product
_FIRST = {pair[0] for pair in PRODUCTS.values()}  # what is left over of a transform is taken out of this operand
_USES = (*SLOTS, *PRODUCTS)  # of random bits: of each slot, and of each product's signs
_KEY_BITS = 61
_NARROW = (torch.bfloat16, torch.float16)


class Product:
    """What the slots of one module make of its operands.

    Args:
        name: of the module.
        kind: of its product.
        slots: those that ask for something.
        products: what else was asked for.
        rank: of this process. Activations and errors have random bits of their own on each; weights and signs do not.

    Attributes:
        keys: int64, where the random bits of each use begin; None where none are used.
        calls: int64, 0-dim: how often the product ran in training, and so how far each key has moved.
        shared: slots of the backward pass -> the slot whose rounded tensor they read.
    """

    def __init__(self, name: str, kind: Kind, slots: Mapping[str, Slot], products: Products, rank: int) -> None:
        self.kind, self.slots = kind, dict(slots)
        self.rule, self.room = products.scale_rule, products.room
        self.transforms = {product: transform_of(product, slots) for product in PRODUCTS}
        fresh = any(t is not None and t.signs == "fresh" for t in self.transforms.values())
        self.keys: Tensor | None = None
        self.calls = torch.tensor(0)
        if fresh or any(slot.rounding == "stochastic" for slot in slots.values()):
            ranks = {use: 0 if use in PRODUCTS or use in ("w", "dgrad_w") else rank for use in _USES}
            draws = [random.Random(f"{products.seed}/{name}/{use}/{ranks[use]}") for use in _USES]
            self.keys = torch.tensor([draw.getrandbits(_KEY_BITS) for draw in draws])
        self._fixed = {
            t.size: random_signs(t.size, torch.tensor(random.Random(f"{products.seed}/signs").getrandbits(_KEY_BITS)))
            for t in self.transforms.values()
            if t is not None and t.signs == "fixed"
        }
        pairs = {"dgrad_w": "w", "wgrad_x": "x", "wgrad_e": "dgrad_e"}
        self._wide = {name for name, slot in slots.items() if slot.rounds and not _fits_bfloat16(slot.grid)}
        self.shared = {b: a for b, a in pairs.items() if self._asks(a) == self._asks(b) is not None}

    def next_keys(self, device: torch.device, advance: bool) -> Tensor | None:
        """The keys of one run of the product and of its gradients."""
        if self.keys is None:
            return None
        if self.keys.device != device:
            self.keys, self.calls = self.keys.to(device), self.calls.to(device)
        if advance:
            self.calls = self.calls + 1  # another tensor: what is compiled may read this one again, in its backward
        return self.keys + self.calls

    def operand(self, kind: Kind, name: str, t: Tensor, keys: Tensor | None) -> Tensor:
        """What the product of slot `name` multiplies, made from t; in t's shape."""
        slot, transform = self.slots.get(name), self.transforms[_OF[name]]
        t = t.detach()  # torch multiplies batches in another way where a gradient is asked for
        if transform is None and (slot is None or not slot.rounds):
            return t
        letter = name[-1]
        narrow = t.dtype in _NARROW and (transform is not None or name in self._wide)
        y = kind.arranged(letter, t.float() if narrow else t)
        if transform is not None:
            y = transformed(y, kind.dims[name], transform.size, self._signs(name, keys, t.device))
        if slot is not None and slot.rounds:
            key = keys[_USES.index(name)] if keys is not None and slot.rounding == "stochastic" else None
            y = self._rounded(slot, y, self._dim(name), key)
        if transform is not None and name in _FIRST:
            y = y / left_over(transform.size)
        return kind.restored(letter, y, t)

    def used(self, kind: Kind, name: str, q: Tensor, keys: Tensor | None) -> Tensor:
        """What the forward product used of operand "x" or "w", its transform undone."""
        transform = self.transforms["forward"]
        if transform is None:
            return q
        y = kind.arranged(name, q)
        y = y * left_over(transform.size) if name in _FIRST else y
        return kind.restored(name, undone(y, kind.dims[name], transform.size, self._signs(name, keys, q.device)), q)

    def kept(self, kind: Kind, name: str, t: Tensor, q: Tensor, keys: Tensor | None) -> Tensor:
        """What the backward slot `name` needs of an operand t, of which the forward product used q."""
        if name in self.shared:
            return q
        slot = self.slots.get(name)
        return self.used(kind, name[-1], q, keys) if slot is not None and slot.source == "q" else t

    def width(self, product: str, dtype: torch.dtype) -> torch.dtype:
        """What to multiply in where the result is to be `dtype`: float32 where that does not hold an operand's grid."""
        exact = dtype not in _NARROW or (dtype == torch.bfloat16 and not self._wide & {*PRODUCTS[product]})
        return dtype if exact or not {*PRODUCTS[product]} & self.slots.keys() else torch.float32

    def _rounded(self, slot: Slot, y: Tensor, dim: int, key: Tensor | None) -> Tensor:
        grid: Any = slot.grid
        if grid.block is None:
            scale = grid.scale_of(y, room=self.room, rule=self.rule) if grid.scaled else 0
            return grid.round(y, scale, key)
        if _tile(slot) and dim == -2:  # rows lie along the other one of the last two
            return grid.round(y.transpose(-2, -1), -1, key).transpose(-2, -1)
        return grid.round(y, dim, key)

    def _dim(self, name: str) -> int:
        """The dimension that blocks run along; the last wherever it makes no difference."""
        slot, dim = self.slots[name], self.kind.dims[name]
        if slot.grid.block is None or (_tile(slot) and dim == 0):  # of a convolution: tiles of pixels and channels
            return -1
        square = _tile(slot) and slot.grid.block[0] == slot.grid.block[1]
        return -1 if square else dim

    def _asks(self, name: str) -> tuple[Any, ...] | None:
        """All that a rounded tensor depends on, besides what it is made from; None where nothing is asked for."""
        slot, transform = self.slots.get(name), self.transforms[_OF[name]]
        if slot is None or not slot.rounds or slot.source == "q":
            return None
        turned = None
        if transform is not None:
            one = _OF[name] if transform.signs == "fresh" else ""
            turned = (transform, self.kind.dims[name], one, name in _FIRST)
        return slot.grid, slot.rounding, self._dim(name), turned

    def _signs(self, name: str, keys: Tensor | None, device: torch.device) -> Tensor | None:
        transform = self.transforms[_OF[name]]
        if transform is None or transform.signs == "none":
            return None
        if transform.signs == "fixed":
            return self._fixed[transform.size].to(device)
        assert keys is not None
        return random_signs(transform.size, keys[_USES.index(_OF[name])])


def _tile(slot: Slot) -> bool:
    block = slot.grid.block
    return block is not None and len(block) == 2 and block[0] > 1


def _fits_bfloat16(grid: Any) -> bool:
    """Whether every value, at any power of two, is a bfloat16 and no other factor comes in."""
    if grid.block is not None:
        return grid.scale == "e8m0" and _fits_bfloat16(grid.element)
    return grid.name == "bf16" or (grid._levels is not None and bool((grid.values().bfloat16() == grid.values()).all()))


def _forward(
    product: Product, kind: Kind, x: Tensor, w: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:  # fmt: skip
    wide = product.width("forward", dtype)
    return kind.forward(x.to(wide), w.to(wide), None if bias is None else bias.to(wide)).to(dtype)


class Multiply(torch.autograd.Function):
    """y = x w + bias, its operands rounded by `product`, and so are those of its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, product: Product, kind: Kind, keys: Tensor | None,
        dtype: torch.dtype | None,
    ) -> Tensor:  # fmt: skip
        qx, qw = product.operand(kind, "x", x, keys), product.operand(kind, "w", w, keys)
        needs_x, needs_w = ctx.needs_input_grad[:2]
        ctx.save_for_backward(
            product.kept(kind, "dgrad_w", w, qw, keys) if needs_x else None,
            product.kept(kind, "wgrad_x", x, qx, keys) if needs_w else None,
            keys,
        )
        ctx.product, ctx.kind = product, kind
        ctx.x, ctx.w = (x.shape, x.dtype), (w.shape, w.dtype)
        ctx.bias = None if bias is None else bias.dtype
        if dtype is None:
            return _forward(product, kind, qx, qw, bias, x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return _forward(product, kind, qx, qw, bias, dtype)

    @staticmethod
    def backward(ctx: Any, e: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a product whose operands are rounded is differentiated once: for create_graph=True leave its layers "
                "out by skip=, or use the handle's off()"
            )
        product, kind = ctx.product, ctx.kind
        w, x, keys = ctx.saved_tensors
        needs_x, needs_w, needs_bias = ctx.needs_input_grad[:3]
        one = "wgrad_e" in product.shared
        dx = dw = db = None
        ed = e
        if needs_x or (needs_w and one):
            ed = product.operand(kind, "dgrad_e", e, keys)
        if needs_x:
            w = w if "dgrad_w" in product.shared else product.operand(kind, "dgrad_w", w, keys)
            wide = product.width("dgrad", e.dtype)
            dx = kind.dgrad(ed.to(wide), w.to(wide), ctx.x[0]).to(ctx.x[1])
        if needs_w:
            eg = ed if one else product.operand(kind, "wgrad_e", e, keys)
            x = x if "wgrad_x" in product.shared else product.operand(kind, "wgrad_x", x, keys)
            wide = product.width("wgrad", e.dtype)
            dw = kind.wgrad(eg.to(wide), x.to(wide), ctx.w[0]).to(ctx.w[1])
        if needs_bias:
            db = kind.bias_grad(e).to(ctx.bias)
        return dx, dw, db, None, None, None, None
