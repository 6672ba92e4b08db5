"""`attach_products_`: a model and what its products are to round become a handle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..weights.sharded import refuse_sharded
from .choosing import check, left_out, products_of
from .delayed import History
from .kinds import Convolution
from .multiplying import Multiplying
from .outside import outside
from .placing import rank
from .product import Product
from .slots import Products
from .switching import HANDLE, Switches
from .tabulating import Shares, tabulated


class Multiplied:
    """The products of one model whose operands are rounded; made by `attach_products_`.

    Attributes:
        model: the model.
        products: what was asked for.
        rounding: what rounds, by module name.
        left_out: module name -> why its product is in full precision.
    """

    def __init__(self, model: nn.Module, products: Products) -> None:
        self.model, self.products, self.switches = model, products, Switches()
        self.rounding: dict[str, Multiplying] = {}
        found = products_of(model, products.accumulate)  # type: ignore[arg-type]
        self.left_out = left_out(model, products, found)
        for name, (module, kind) in found.items():
            if name in self.left_out:
                continue
            slots = products.of(name)
            if products.accumulate is not None and isinstance(kind, Convolution):
                raise ValueError(
                    f"accumulate is for Linear and MatMul, and {name!r} is a {type(module).__name__}: leave it out by "
                    f"skip=[{name!r}]"
                )
            if not slots and products.accumulate is None:
                self.left_out[name] = "fp32 by choice"
                continue
            check(name, module, kind, slots)
            product = Product(name, kind, slots, products, rank(), self.switches)
            self.rounding[name] = Multiplying(module, model, product)
        for multiplying in self.rounding.values():
            multiplying.module.__dict__["forward"] = multiplying
        self._full: frozenset[str] = frozenset()

    def advance(self, done: float) -> None:
        """Be where `Products.phases` are when `done`, a share from 0 to 1, of a run is done."""
        full = frozenset(p for phase in self.products.phases if phase["start"] <= done for p in phase["full"])
        if full != self._full:
            self._full = full
            for multiplying in self.rounding.values():
                multiplying.product.leave(full)

    @property
    def needs_whole_batches(self) -> bool:
        """Whether a transform of fixed size runs over tokens or examples, whose number it must divide."""
        slots = [slot for m in self.rounding.values() for slot in m.product.slots.values()]
        return any(slot.turn is not None and not slot.turn.fit for slot in slots)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within, products are computed by the modules' own forward passes."""
        with _switched(self.switches, on=False):
            yield

    @contextmanager
    def probe(self) -> Iterator[None]:
        """Within, operands are rounded, and random bits do not advance."""
        with _switched(self.switches, observing=False):
            yield

    def remove(self) -> None:
        """The model computes as it did before `attach_products_`."""
        for multiplying in self.rounding.values():
            if multiplying.module.__dict__.get("forward") is multiplying:
                del multiplying.module.__dict__["forward"]
        self.model.__dict__.pop(HANDLE, None)

    @contextmanager
    def measure(self) -> Iterator[Callable[[], Shares]]:
        """Within, count; what it yields, called, gives for each product the shares of operands' elements.

        By module name and slot: "saturation", those beyond the largest level, infinities aside, and "underflow", those
        that became zero. Slots that share one rounded tensor count as one, the first. `report()` shows the last shares.
        """
        for multiplying in self.rounding.values():
            multiplying.product.counts = {}
        with _switched(self.switches, counting=True):
            yield self._counted

    def report(self, example: Any = None) -> str:
        """A table: the six slots of each product, what was left out and why, and what the last `measure()` found.

        Args:
            example: a batch, or a tuple of the model's arguments: the model is run on it, and the products that no
                module makes, and so stay in full precision, are told.
        """
        table = tabulated(self.model, self.rounding, self.left_out, self._counted())
        if example is None:
            return table
        with self.probe():
            return "\n".join([table, *outside(self.model, {*self.rounding, *self.left_out}, example)])

    def state_dict(self) -> dict[str, Tensor]:
        """How far the random bits of each product have advanced, by module name, and the histories of its scales."""
        found = {n: m.product.calls for n, m in self.rounding.items() if m.product.keys is not None}
        for name, slot, history in self._histories():
            found |= {f"{name}/{slot}/{what}": value for what, value in history.state().items()}
        return found

    def _histories(self) -> Iterator[tuple[str, str, History]]:
        for name, multiplying in self.rounding.items():
            for slot, history in multiplying.product.histories.items():
                if slot not in multiplying.product.shared:
                    yield name, slot, history

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: it is of other products.
        """
        own = self.state_dict()
        if odd := sorted(own.keys() ^ state.keys()):
            raise ValueError(
                f"the saved random bits are of other products: {len(odd)} differ, for example {odd[0]!r}; resume with "
                "the model and products= of the saved run"
            )
        if odd := [name for name, value in own.items() if value.shape != state[name].shape]:
            raise ValueError(f"the saved {odd[0]!r} is of another length: resume with the history of the saved run")
        for name, value in own.items():
            value.copy_(state[name])

    def _counted(self) -> Shares:
        return {name: found for name, m in self.rounding.items() if (found := m.product.shares())}


def attach_products_(model: nn.Module, products: Products) -> Multiplied:
    """Round the operands of the model's products, in place; parameters, names and the state dict stay as they are.

    It takes Linear, convolutions of one to three dimensions (grouped, strided, dilated, transposed), `lpt.ops.MatMul`
    and `lpt.ops.Function(F.linear)`; embeddings are left alone.

    Args:
        model: any nn.Module, before it is wrapped for distribution or compilation.
        products: what each slot is rounded to.

    Raises:
        ValueError: no module; one that has products already; a pattern that matches nothing; a slot without effect; a
            transform whose size does not divide; a module whose products are hidden.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"attach_products_ takes an nn.Module, got a {type(model).__name__}")
    if not isinstance(products, Products):
        raise ValueError(f"attach_products_ takes Products, got {products!r}: write lpt.Products(x=..., w=..., ...)")
    if HANDLE in model.__dict__:
        raise ValueError("this model's products are rounded already; call remove() on their handle first")
    refuse_sharded(model)
    handle = Multiplied(model, products)
    model.__dict__[HANDLE] = handle
    return handle


@contextmanager
def _switched(switches: Switches, **values: bool) -> Iterator[None]:
    before = {key: getattr(switches, key) for key in values}
    vars(switches).update(values)
    try:
        yield
    finally:
        vars(switches).update(before)
