"""What stands in one product while a search runs, in the place of the `Product` that a training has there.

The forward pass in full precision is run once, and every candidate goes back through its graph with roundings of its
own: what is kept is unrounded. Blocks, transforms, sources and random bits are those of a training's `Product`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..dataflow.keeping import Kept
from ..dataflow.kinds import Kind, MatMul
from ..dataflow.multiplying import Multiplying
from ..dataflow.product import Product
from ..dataflow.slots import OF, PRODUCTS
from ..dataflow.switching import Switches
from .operands import rows_of


class Seen(Kept):
    """An operand of the shared graph, with the weight that its product multiplied, a view of it or itself, and how
    many multiply-adds that took."""

    def __init__(self, t: Tensor, w: Tensor, size: float) -> None:
        super().__init__(t)
        self.w, self.size = w, size


@dataclass
class Record:
    """One call of a product in full precision: error, operand, the weight's gradient of this call, and its place."""

    kind: Kind
    e: Tensor
    x: Tensor
    shape: tuple[int, ...]
    weight: str | None
    rows: slice
    g: Tensor | None = None

    def gradient(self) -> Tensor:
        if self.g is None:
            self.g = self.kind.wgrad(self.e, self.x, self.shape)
        return self.g


class Site:
    """In one product, in the place of its `Product`."""

    histories: Mapping[str, Any] = {}

    def __init__(
        self, name: str, module: nn.Module, root: nn.Module, kind: Kind, weights: Mapping[str, Tensor]
    ) -> None:
        self.name, self.module, self.kind, self.weights = name, module, kind, weights
        self.switches = Switches(observing=False)
        self.forward = Multiplying(module, root, self)  # type: ignore[arg-type]  # it asks for what is here
        self.records: list[Record] = []
        self.sizes = dict.fromkeys(PRODUCTS, 0.0)  # multiply-adds in the pass in full precision
        self._size = 0.0  # of the forward product of this call, if it is counted
        # In the pass in full precision, and in no other: whether multiply-adds are to be counted.
        self.recording: Callable[[], bool] | None = None
        self.full: Product | None = None  # of the candidate
        self.part: Product | None = None  # the slots of it that round at present
        self.keys: Tensor | None = None
        self._last = torch.empty(0)  # operand that was seen

    @property
    def weight(self) -> Tensor | None:
        """Its own, if it has one."""
        return self.module._parameters.get("weight")

    def put(self, full: Product | None, active: Collection[str], keys: Tensor | None) -> None:
        self.full, self.keys = full, keys
        self.part = None if full is None else part_of(full, active)

    @property
    def shared(self) -> Collection[str]:
        """What `Multiply` asks for: whether one rounded error serves both gradients."""
        return () if self.part is None else self.part.shared

    def next_keys(self, device: torch.device, advance: bool) -> Tensor | None:
        return self.keys

    def operand(self, kind: Kind, name: str, t: Tensor, keys: Tensor | None, observing: bool = False) -> Tensor:
        if self.part is not None:
            return self.part.operand(kind, name, t, self.keys)
        if name == "w":
            counted = self.recording is not None and self.recording()
            self._size = multiply_adds(kind, self._last, t) if counted else 0.0
            self.sizes["forward"] += self._size
        if name in ("x", "w", "wgrad_e"):
            self._last = t
        return t.detach()

    def kept(self, kind: Kind, name: str, t: Tensor, q: Tensor, keys: Tensor | None) -> Kept:
        return Seen(t, self._last, self._size) if self.part is None else self.part.kept(kind, name, t, q, self.keys)

    def restored(
        self, kind: Kind, name: str, kept: Kept, tensors: Sequence[Any], keys: Tensor | None, observing: bool
    ) -> Tensor:
        if not isinstance(kept, Seen):
            assert self.part is not None
            return self.part.restored(kind, name, kept, tensors, self.keys, False)
        t = kept.restored(tensors)
        if self.part is not None:
            return self.rounded(kind, name, t)
        if self.recording is not None:
            self.sizes[OF[name]] += kept.size
            if name == "wgrad_x":
                self._record(kind, t, kept.w)
        return t

    def rounded(self, kind: Kind, name: str, t: Tensor) -> Tensor:
        """The operand of a backward slot, of the x or w in full precision that the forward product used."""
        assert self.full is not None and self.part is not None
        slot = self.part.slots.get(name)
        if slot is not None and slot.source != "hp":
            q = self.full.operand(kind, name[-1], t, self.keys)
            t = q if slot.source == "turned" else self.full.used(kind, name[-1], q, self.keys)
        return self.part.operand(kind, name, t, self.keys)

    def passing(self, kind: Kind, name: str, t: Tensor, keys: Tensor | None) -> Tensor | None:
        return None if self.part is None else self.part.passing(kind, name, t, self.keys)

    def returned(self, kind: Kind, name: str, g: Tensor, passing: Tensor | None, keys: Tensor | None) -> Tensor:
        return g if self.part is None else self.part.returned(kind, name, g, passing, self.keys)

    def width(self, product: str, dtype: torch.dtype) -> torch.dtype:
        return dtype if self.part is None else self.part.width(product, dtype)

    def change(self, record: Record) -> Tensor:
        """By how much the active slots of the weight gradient change it, all else in full precision."""
        assert self.part is not None
        e = self.part.operand(record.kind, "wgrad_e", record.e, self.keys)
        x = self.rounded(record.kind, "wgrad_x", record.x)
        g = record.kind.wgrad(e, x, record.shape)
        return self.part.returned(record.kind, "w", g, None, self.keys) - record.gradient()

    def _record(self, kind: Kind, x: Tensor, w: Tensor) -> None:
        weight, rows = None, slice(None)
        for name, whole in self.weights.items():
            if (found := rows_of(w, whole)) is not None:
                weight, rows = name, found
        self.records.append(Record(kind, self._last, x.detach(), tuple(w.shape), weight, rows))


def multiply_adds(kind: Kind, x: Tensor, w: Tensor) -> float:
    """Of the product of these operands."""
    y = kind.forward(x.to("meta"), w.to("meta"), None)
    if isinstance(kind, MatMul):
        return y.numel() * w.shape[-2]
    return (x if getattr(kind, "transposed", False) else y).numel() * w.numel() / w.shape[0]


def part_of(full: Product, active: Collection[str]) -> Product:
    """`full` with those slots alone that are active. The forward transform stays, since what is kept may be turned."""
    part = copy.copy(full)
    part.slots = {name: slot for name, slot in full.slots.items() if name in active}
    part.plain = {name: rounding for name, rounding in full.plain.items() if name in active}
    part.shared = {b: a for b, a in full.shared.items() if a in active and b in active}
    part.transforms = {
        product: turn if product == "forward" or any(name in part.slots for name in pair) else None
        for (product, pair), turn in zip(PRODUCTS.items(), full.transforms.values(), strict=True)
    }
    return part
