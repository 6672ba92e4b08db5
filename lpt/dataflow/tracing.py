"""What one forward pass tells: which products are the last ones, and which arguments are operands of products.

*Last* is a product whose values enter no other product, whatever else is done to them; what it does to them is the
network's *output*. An argument is an activation if it is itself an operand, perhaps after it was moved about.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from .places import floats_in, mapped, refuse_nested
from .products import OPERANDS, hides_products, moves
from .untouched import untouched

_PRODUCT = ""  # stands among the sources of a product's result, until an Edge has given it a name


@dataclass
class Traced:
    """What was seen in one forward pass."""

    called: set[str] = field(default_factory=set)  # Edges that ran
    products: set[str] = field(default_factory=set)  # Edges behind a product
    entering: set[str] = field(default_factory=set)  # Edges whose values are operands of a product
    before: dict[str, set[str]] = field(default_factory=dict)  # Edge -> Edges that its values were made of
    arguments: set[str] = field(default_factory=set)  # places of arguments that are operands of a product

    def last(self) -> set[str]:
        """Products from which no way leads to another product."""
        return self.products - self._closure(self.entering, self.before)

    def output(self, last: set[str]) -> set[str]:
        """What is made of the `last` products and enters no product."""
        after: dict[str, set[str]] = {}
        for name, sources in self.before.items():
            for source in sources:
                after.setdefault(source, set()).add(name)
        return self._closure(last, after) - last - self._closure(self.entering, self.before)

    @staticmethod
    def _closure(names: set[str], next_ones: dict[str, set[str]]) -> set[str]:
        found: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += next_ones.get(name, ())
        return found


@dataclass(frozen=True)
class Roles:
    """Which Edges ran in some passes, and which of them are a last product's or the network's output's."""

    called: set[str]
    last: set[str]
    output: set[str]

    def joined(self, other: Roles) -> Roles:
        """Of both: an Edge has a role if it has it in every pass in which it ran."""

        def both(a: set[str], b: set[str]) -> set[str]:
            return {n for n in a | b if (n in a or n not in self.called) and (n in b or n not in other.called)}

        return Roles(self.called | other.called, both(self.last, other.last), both(self.output, other.output))


class Tracer(TorchDispatchMode):
    """Follows values from Edge to Edge, by the memory that they lie in."""

    def __init__(self) -> None:
        super().__init__()
        self.traced = Traced()
        self._sources: dict[StorageWeakRef, set[str]] = {}  # Edges, and _PRODUCT, that the values come from
        self._moved: dict[StorageWeakRef, set[str]] = {}  # arguments whose values these are

    def argument(self, x: Tensor, place: str) -> Tensor:
        """A copy of an argument, which may be written to, to be followed."""
        x = x.clone()
        self._moved[_memory(x)] = {place}
        return x

    def edge(self, name: str, output: Any) -> Any:
        """A module's output, as its Edge would replace it."""
        traced = self.traced
        traced.called.add(name)

        def see(x: Tensor, path: Any) -> Tensor:
            if not x.is_floating_point():
                return x
            refuse_nested(x, f"what {name or 'the model'} returns")
            sources = self._sources.get(_memory(x), set())
            if _PRODUCT in sources:
                traced.products.add(name)
            traced.before.setdefault(name, set()).update(sources - {_PRODUCT})
            x = x.clone()
            self._sources[_memory(x)] = {name}
            return x

        def other(value: Any, _: bool) -> Any:
            for x in floats_in(value):
                see(x, ())
            return value

        return mapped(output, see, other=other)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        inputs = _tensors((args, kwargs))
        if packet in OPERANDS or hides_products(packet):
            positions = OPERANDS.get(packet, ("hidden",) * len(inputs))
            operands = [x for at, x in zip(positions, args, strict=False) if at is not None and isinstance(x, Tensor)]
            for x in operands if packet in OPERANDS else inputs:
                self.traced.entering |= self._sources.get(_memory(x), set()) - {_PRODUCT}
                self.traced.arguments |= self._moved.get(_memory(x), set())
            rest = [x for x in inputs if packet in OPERANDS and not any(x is operand for operand in operands)]
            sources = {_PRODUCT}.union(*(self._sources.get(_memory(x), ()) for x in rest))
        else:
            sources = set().union(*(self._sources.get(_memory(x), ()) for x in inputs))
        moved = set().union(*(self._moved.get(_memory(x), ()) for x in inputs)) if moves(func) else set()
        written = [a for a, s in zip(args, func._schema.arguments, strict=False) if s.is_write]
        for x in _tensors((out, written)):
            if sources:
                self._sources.setdefault(_memory(x), set()).update(sources)
            if moved:
                self._moved.setdefault(_memory(x), set()).update(moved)
        return out


def trace(model: nn.Module, run: Callable[[Tracer], Any]) -> Traced:
    """What `run`, given the tracer, shows while it runs the model forward, which is left as it was."""
    inference = torch.is_inference_mode_enabled()  # there, products would arrive as the functions that were called
    with (
        torch.inference_mode(False), torch.set_grad_enabled(torch.is_grad_enabled() and not inference),
        untouched(model), Tracer() as tracer,
    ):  # fmt: skip
        run(tracer)
    return tracer.traced


def can_trace() -> bool:
    """Whether this forward pass can be run once more: not within a compiler, nor within torch.func's transforms."""
    return not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())


def _tensors(values: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(values) if isinstance(x, Tensor) and x.layout == torch.strided]


def _memory(x: Tensor) -> StorageWeakRef:
    return StorageWeakRef(x.untyped_storage())
