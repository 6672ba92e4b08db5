"""What a search can measure: a format in Edges, or slots of products, under one name.

A format with one scale a tensor is measured where `attach_` rounds, behind every module that makes new values; a block
format, a Slot, Products or a recipe where `attach_products_` rounds, in the six operand slots of each product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from typing import Any, Union

from .. import formats as formats_
from ..dataflow import Products, Slot
from ..dataflow.slots import SLOTS
from ..formats import Blocks, Format
from ..formats.names import NAMED, per_tensor
from .recipes import recipe

CandidateSpec = Union[str, Sequence[int], Mapping[str, Any], Format, Slot, Products, "Candidate"]
_SLOT_KEYS = {field.name for field in fields(Slot)}
_PRODUCTS_KEYS = {field.name for field in fields(Products)}
FULL = 32  # bits of an operand that is not rounded


@dataclass(frozen=True)
class Candidate:
    """One scheme that a search measures.

    Args:
        name: of it, the key of the journal.
        activation, error: formats of A and E in Edges; None leaves them alone.
        products: slots; None leaves products alone.
        left: of a recipe, what is not measured.
    """

    name: str
    activation: Format | None = None
    error: Format | None = None
    products: Products | None = None
    left: tuple[str, ...] = ()

    @property
    def format(self) -> Format | None:
        """The one format everywhere; None if there are several, or places in full precision."""
        found: list[Any] = [self.activation, self.error] if self.products is None else list(self.slots.values())
        if self.products is not None and (self.activation or self.error or self.products != of_slots(self.slots)):
            return None
        one = found[0] if self.products is None else next((s.grid for s in found if s), None)
        grids = found if self.products is None else [s.grid if s else None for s in found]
        return one if one is not None and all(grid == one for grid in grids) else None

    @property
    def slots(self) -> dict[str, Slot | None]:
        """What each of the six slots asks for where no rule says otherwise."""
        return {name: getattr(self.products, name, None) for name in SLOTS}

    @property
    def bits(self) -> float:
        """Of an operand; of several formats the mean over the slots, 32 for those in full precision."""
        if self.products is None:
            both = [FULL if f is None or f.name == "fp32" else f.bits for f in (self.activation, self.error)]
            return both[0] if both[0] == both[1] else sum(both) / 2
        if self.format is not None:
            return self.format.bits
        return sum(bits_of(slot) for slot in self.slots.values()) / len(SLOTS)

    @property
    def random(self) -> bool:
        """Whether it takes random bits."""
        rules = [slot for rule in (self.products.rules if self.products else ()) for slot in rule.values()]
        slots = [s for s in [*self.slots.values(), *rules] if isinstance(s, Slot)]
        return any(s.random or (s.turn is not None and s.turn.signs == "fresh") for s in slots)


def bits_of(slot: Slot | None) -> float:
    """Of an operand, its share of block scales included."""
    return slot.grid.bits if slot is not None and slot.rounds else FULL


def of_slots(slots: Mapping[str, Slot | Format | str | None]) -> Products:
    """These slots in every product."""
    return Products(**slots)  # type: ignore[arg-type]


def uniform(slot: Slot | Format | str) -> Products:
    """The same in all six slots."""
    return of_slots(dict.fromkeys(SLOTS, slot))


def resolve(specs: Sequence[CandidateSpec]) -> list[Candidate]:
    """The candidates that `specs` means, each name once.

    Raises:
        ValueError: an unknown name, none at all, or one name for two things.
    """
    if isinstance(specs, str):
        raise ValueError(f"{specs!r} is not a list: write [{specs}]")
    found: dict[str, Candidate] = {}
    for spec in specs:
        for each in _expanded(spec):
            if found.setdefault(each.name, each) != each:
                raise ValueError(f"two candidates are called {each.name!r}: give a mapping's name=")
    if not found:
        raise ValueError(f"the list of formats is empty: give names, or some of {', '.join([*GROUPS, *BLOCK_GROUPS])}")
    return list(found.values())


def candidate(spec: CandidateSpec) -> Candidate:
    """One candidate, of anything but a group's name.

    Raises:
        ValueError: it is none.
    """
    if isinstance(spec, Candidate):
        return spec
    if isinstance(spec, str) and spec.startswith("recipe:"):
        return _recipe(spec)
    if isinstance(spec, Slot):
        return Candidate(str(spec), products=uniform(spec))
    if isinstance(spec, Products):
        return Candidate(_named(spec), products=spec)
    if isinstance(spec, Mapping) and "element" not in spec:
        return _mapping({str(key): value for key, value in spec.items()})
    format = formats_.get(spec) if _blocks(spec) else per_tensor(spec)  # type: ignore[arg-type]
    if isinstance(format, Blocks):
        return Candidate(format.name, products=uniform(format))
    return Candidate(format.name, format, format)


def _blocks(spec: Any) -> bool:
    return isinstance(spec, (Blocks, Mapping)) or (isinstance(spec, str) and ("/" in spec or spec in NAMED))


def _expanded(spec: CandidateSpec) -> list[Candidate]:
    if isinstance(spec, str) and spec in GROUPS:
        return [candidate(format) for format in GROUPS[spec]()]
    if isinstance(spec, str) and spec in BLOCK_GROUPS:
        return [candidate(name) for name in BLOCK_GROUPS[spec]()]
    return [candidate(spec)]


def _mapping(given: dict[str, Any]) -> Candidate:
    name = given.pop("name", None)
    if "format" in given and not set(given) - _SLOT_KEYS:
        slot = Slot(**given)
        return Candidate(name or str(slot), products=uniform(slot))
    if not given or (odd := sorted(set(given) - _PRODUCTS_KEYS)):
        got = f", got {odd[0]!r}" if given else ""
        raise ValueError(
            f"a candidate's mapping is a block format ({{element: fp134, block: 16}}), a Slot ({{format: mxfp4, "
            f"rounding: stochastic}}) or Products ({{x: mxfp4, wgrad_e: mxfp8_e5m2}}), with a name if you like{got}; "
            f"of Products there are {', '.join(sorted(_PRODUCTS_KEYS))}"
        )
    products = Products(**given)
    return Candidate(name or _named(products), products=products)


def _recipe(spec: str) -> Candidate:
    products, edges, left = recipe(spec.removeprefix("recipe:"))
    kept = {key: value for key, value in products.items() if value is not None and key in _PRODUCTS_KEYS}
    found = {key: per_tensor(value) for key, value in edges.items()}
    return Candidate(spec, found.get("activation"), found.get("error"), Products(**kept) if kept else None, left)


def _named(products: Products) -> str:
    """Slots by what they ask for: "mxfp4 stochastic", or "x,w=mxfp4 dgrad_e=mxfp8_e5m2"."""
    asked: dict[str, list[str]] = {}
    for name in SLOTS:
        slot = getattr(products, name)
        asked.setdefault("fp32" if slot is None else str(slot), []).append(name)
    head = next(iter(asked)) if len(asked) == 1 else "; ".join(f"{','.join(at)}={what}" for what, at in asked.items())
    usual = Products()
    others = [f for f in fields(Products) if f.name not in SLOTS]
    more = [f"{f.name}={v}" for f in others if (v := getattr(products, f.name)) != getattr(usual, f.name)]
    return "; ".join([head, *more])


GROUPS: dict[str, Callable[[], list[Format]]] = {
    "family8": lambda: formats_.family(8),
    "family7": lambda: formats_.family(7),
    "family6": lambda: formats_.family(6),
    "posits": lambda: [formats_.get(f"posit8_{es}") for es in range(3)],
}
# Block formats: every element in every block with every kind of scale and rule.
ELEMENTS = {
    "blocks4": ("ocp_e2m1", "int4", "log4", "[2x2,3x1]"),
    "blocks6": ("ocp_e3m2", "ocp_e2m3", "int6"),
    "blocks8": ("ocp_e4m3", "ocp_e5m2", "int8", "fp134"),
}
SIZES = ("16", "32", "64", "128", "16x16")
SCALES = ("e8m0/floor", "e8m0/even", "e8m0/ceil", "e8m0/rceil", "e4m3/amax", "fp32/amax")


def _group(elements: Sequence[str]) -> Iterator[str]:
    for element, size, scale in product(elements, SIZES, SCALES):
        yield f"{element}/{size}/{scale}"
    for size in SIZES if "ocp_e2m1" in elements else ():  # made for FP4
        yield f"ocp_e2m1/{size}/e4m3/four_six"


BLOCK_GROUPS: dict[str, Callable[[], list[str]]] = {
    group: lambda elements=elements: list(_group(elements))  # type: ignore[misc]
    for group, elements in ELEMENTS.items()
}
