"""The products of a model with slots that can be exchanged between two passes: how a search rounds operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..dataflow import Multiplied, Products
from ..dataflow.multiplying import Multiplying
from ..dataflow.product import Product
from ..dataflow.roles import HIDES_PRODUCTS
from ..dataflow.slots import OF, PRODUCTS, SLOTS, Slot
from ..dataflow.switching import HANDLE
from .candidates import Candidate, bits_of
from .site import Site

LOCAL = ("wgrad_e", "wgrad_x")  # slots on which nothing but their own product's result depends
ERRORS = ("dgrad_e", "dgrad_w", "wgrad_e")
Choice = tuple[Candidate, Collection[str]]  # and those of its slots that round


class Sites:
    """All products of a model.

    Args:
        model: any; products of its own that are rounded are not meanwhile.
        candidates: what will be asked for.
        weights: the weights whose gradient is looked at, by name.

    Raises:
        ValueError: a candidate that does not fit the model.
    """

    def __init__(self, model: nn.Module, candidates: Sequence[Candidate], weights: Mapping[str, Tensor]) -> None:
        self.model = model
        self._device = next(iter(weights.values())).device
        self._handle = model.__dict__.pop(HANDLE, None)
        self._own = {m: m.__dict__.pop("forward") for m in self._theirs()}
        self._known: dict[str, dict[str, Product]] = {}
        self.sites: dict[str, Site] = {}
        try:
            for name, at in self._attached(Products(x="int8", skip=self._hidden())).items():
                self.sites[name] = Site(name, at.module, model, at.product.kind, weights)
            self.add(*candidates)
        except ValueError:
            self.remove()
            raise

    def remove(self) -> None:
        """The model as it was."""
        for site in self.sites.values():
            site.module.__dict__.pop("forward", None)
        for module, forward in self._own.items():
            module.__dict__["forward"] = forward
        if self._handle is not None:
            self.model.__dict__[HANDLE] = self._handle

    def add(self, *candidates: Candidate) -> None:
        """Know these, too.

        Raises:
            ValueError: one does not fit the model.
        """
        for site in self.sites.values():
            site.module.__dict__.pop("forward", None)
        for each in candidates:
            if each.products is not None:
                self._known[each.name] = self._products(each)
        for site in self.sites.values():
            site.module.__dict__["forward"] = site.forward

    @contextmanager
    def recording(self, counts: Callable[[], bool]) -> Iterator[None]:
        """Within, multiply-adds are counted in passes that count, and what products multiply on the way back is kept,
        in the place of what was seen before."""
        for site in self.sites.values():
            site.records.clear()
            site.sizes = dict.fromkeys(PRODUCTS, 0.0)
            site.recording = counts
        try:
            yield
        finally:
            for site in self.sites.values():
                site.recording = None

    @contextmanager
    def rounding(self, choices: Mapping[str, Choice] | Choice | None, draw: int = 0) -> Iterator[None]:
        """Within, products round what `choices` says, for all or by module name; None: nothing.

        Args:
            draw: which random bits; other ones for each number.
        """
        for name, site in self.sites.items():
            chosen = choices.get(name) if isinstance(choices, Mapping) else choices
            full = self._known.get(chosen[0].name, {}).get(name) if chosen is not None else None
            if full is None or chosen is None:
                site.put(None, (), None)
                continue
            full.calls = torch.tensor(draw)
            site.put(full, chosen[1], full.next_keys(self._device, False))
        try:
            yield
        finally:
            for site in self.sites.values():
                site.put(None, (), None)

    @torch.no_grad()
    def changes(self, choices: Mapping[str, Choice] | Choice, draw: int = 0) -> dict[str, Tensor]:
        """By how much the active ones of wgrad_e and wgrad_x change weights' gradients, all else left as it is."""
        found: dict[str, Tensor] = {}
        with self.rounding(choices, draw):
            for site in self.sites.values():
                if site.part is None or not site.part.slots.keys() & {*LOCAL}:
                    continue
                for record in site.records:
                    if record.weight is None:
                        continue
                    if record.weight not in found:
                        found[record.weight] = torch.zeros_like(site.weights[record.weight])
                    found[record.weight][record.rows] += site.change(record)
        return found

    def sizes(self) -> dict[str, dict[str, float]]:
        """Multiply-adds that read each slot of each product in the batch that was seen; slots that none read are not in
        it, as those of a gradient that nobody asks for."""
        return {
            name: {slot: size for slot in SLOTS if (size := site.sizes[OF[slot]])} for name, site in self.sites.items()
        }

    def slots(self, candidate: Candidate, name: str) -> dict[str, Any]:
        """The slots of one product that ask for something."""
        product = self._known[candidate.name].get(name)
        return {} if product is None else dict(product.slots)

    def bits(self, candidate: Candidate) -> float:
        """Mean bits of an operand over the multiply-adds that read it, of the batch that was seen."""
        read = self.read(candidate)
        return math.fsum(size * bits_of(slot) for _, slot, size in read) / math.fsum(size for *_, size in read)

    def read(self, candidate: Candidate) -> list[tuple[str, Slot | None, float]]:
        """Of all products: each slot that was read in the batch that was seen, what a candidate asks for there, and the
        multiply-adds that read it."""
        return [
            (s, self.slots(candidate, n).get(s), size) for n, own in self.sizes().items() for s, size in own.items()
        ]

    def _theirs(self) -> list[nn.Module]:
        return [] if self._handle is None else [m.module for m in self._handle.rounding.values()]

    def _hidden(self) -> list[str]:
        return [name for name, module in self.model.named_modules() if isinstance(module, HIDES_PRODUCTS)]

    def _attached(self, products: Products) -> dict[str, Multiplying]:
        handle = Multiplied(self.model, products)
        handle.remove()
        return handle.rounding

    def _products(self, candidate: Candidate) -> dict[str, Product]:
        assert candidate.products is not None
        frozen = [n for n, s in self.sites.items() if s.weight is not None and not s.weight.requires_grad]
        rules = [*candidate.products.rules, *({"pattern": n, "wgrad_e": None, "wgrad_x": None} for n in frozen)]
        asked = replace(candidate.products, rules=rules, skip=[*candidate.products.skip, *self._hidden()])
        try:
            return {name: m.product for name, m in self._attached(asked).items()}
        except ValueError as error:
            raise ValueError(f"candidate {candidate.name}: {error}") from error
