"""One product and its two gradients as one autograd function, which rounds the operands of each where they are used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .keeping import Kept
from .kinds import Kind
from .product import Product


class Multiply(torch.autograd.Function):
    """y = x w + bias, its operands rounded by `product`, and so are those of its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, product: Product, kind: Kind, keys: Tensor | None,
        dtype: torch.dtype | None, observing: bool,
    ) -> Tensor:  # fmt: skip
        qx, qw = product.operand(kind, "x", x, keys, observing), product.operand(kind, "w", w, keys, observing)
        needs_x, needs_w = ctx.needs_input_grad[:2]
        ctx.kept_w = product.kept(kind, "dgrad_w", w, qw, keys) if needs_x else Kept(None)
        ctx.kept_x = product.kept(kind, "wgrad_x", x, qx, keys) if needs_w else Kept(None)
        ctx.save_for_backward(
            keys,
            product.passing(kind, "x", x, keys) if needs_x else None,
            product.passing(kind, "w", w, keys) if needs_w else None,
            *ctx.kept_w.given(),
            *ctx.kept_x.given(),
        )
        ctx.product, ctx.kind, ctx.keys, ctx.observing = product, kind, keys, observing
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
        product, kind, observing = ctx.product, ctx.kind, ctx.observing
        keys, passing_x, passing_w, *saved = ctx.saved_tensors
        _check_keys(product.name, ctx.keys, keys)
        needs_x, needs_w, needs_bias = ctx.needs_input_grad[:3]
        one = "wgrad_e" in product.shared
        dx = dw = db = None
        ed = e
        if needs_x or (needs_w and one):
            ed = product.operand(kind, "dgrad_e", e, keys, observing)
        if needs_x:
            w = product.restored(kind, "dgrad_w", ctx.kept_w, saved[: ctx.kept_w.count], keys, observing)
            wide = product.width("dgrad", e.dtype)
            dx = kind.dgrad(ed.to(wide), w.to(wide), ctx.x[0])
            dx = product.returned(kind, "x", dx, passing_x, keys).to(ctx.x[1])
        if needs_w:
            eg = ed if one else product.operand(kind, "wgrad_e", e, keys, observing)
            x = product.restored(kind, "wgrad_x", ctx.kept_x, saved[ctx.kept_w.count :], keys, observing)
            wide = product.width("wgrad", e.dtype)
            dw = kind.wgrad(eg.to(wide), x.to(wide), ctx.w[0])
            dw = product.returned(kind, "w", dw, passing_w, keys).to(ctx.w[1])
        if needs_bias:
            db = kind.bias_grad(e).to(ctx.bias)
        return dx, dw, db, None, None, None, None, None


def _forward(
    product: Product, kind: Kind, x: Tensor, w: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:  # fmt: skip
    wide = product.width("forward", dtype)
    return kind.forward(x.to(wide), w.to(wide), None if bias is None else bias.to(wide)).to(dtype)


def _check_keys(name: str, own: Tensor | None, saved: Tensor | None) -> None:
    """Whether a forward pass that was computed again for this backward pass drew the bits of the first one."""
    if torch.compiler.is_compiling() or own is None or saved is None or own.data_ptr() == saved.data_ptr():
        return
    if not own.equal(saved):
        raise RuntimeError(
            f"the product of {name!r} was computed again (activation checkpointing) with other random bits than at "
            "first, since it ran more than once in between: leave it out of the checkpoint, or round it to nearest and "
            "without fresh signs"
        )
