"""A model's rounded products, switched off by those who look at the model and do not know of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import nn

HANDLE = "_lpt_products"  # where a model keeps the handle of its products


@contextmanager
def products_off(model: nn.Module) -> Iterator[None]:
    """Within, the products of `model`, if any are rounded, are not."""
    handle = model.__dict__.get(HANDLE)
    with nullcontext() if handle is None else handle.off():
        yield
