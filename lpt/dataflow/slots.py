"""What products are asked to be: the six operand slots of a matrix product or convolution, and what each asks for.

y  = x w^T     x (tokens, in), w (out, in)    forward         x, w                  contraction: in
dx = e w       e = dL/dy (tokens, out)        input gradient  dgrad_e, dgrad_w      contraction: out
dw = e^T x                                    weight gradient wgrad_e, wgrad_x      contraction: tokens
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from .. import formats
from ..formats import Format
from ..formats.scaling import RULES

PRODUCTS = {"forward": ("x", "w"), "dgrad": ("dgrad_e", "dgrad_w"), "wgrad": ("wgrad_e", "wgrad_x")}
SLOTS = tuple(slot for pair in PRODUCTS.values() for slot in pair)
SIZES = (16, 32, 64, 128)
FormatSpec = str | Sequence[int] | Mapping[str, Any] | Format


@dataclass(frozen=True)
class Hadamard:
    """A Hadamard matrix, in Sylvester's order, along the contraction of both operands of a product.

    Args:
        size: 16, 32, 64 or 128; it must divide what is summed over.
        signs: "none"; "fixed", one vector of random signs for all products and all time, multiplied in before;
            "fresh", another one for every product and pass, the same on all ranks.
    """

    size: int = 16
    signs: str = "fixed"

    def __post_init__(self) -> None:
        if self.size not in SIZES or isinstance(self.size, bool):
            raise ValueError(f"a Hadamard transform of size {self.size!r}: give one of {', '.join(map(str, SIZES))}")
        _choice("signs", self.signs, "none", "fixed", "fresh")

    def __str__(self) -> str:
        return f"H{self.size}" + ("" if self.signs == "none" else f" {self.signs}")


@dataclass(frozen=True)
class Slot:
    """What one operand of one product is rounded to.

    Args:
        format: as `lpt.formats.get` takes it; "fp32" does not round. Blocks run along what the product sums over.
        rounding: "nearest" or "stochastic".
        source: "hp", the unrounded tensor; "q", what the forward product used, rounded once more (of dgrad_w and
            wgrad_x; with format "fp32": just what the forward product used).
        transform: None, or what `Hadamard` takes: a size, a mapping, or a Hadamard. It is applied to both operands of
            the product, and cancels out in it.

    Raises:
        ValueError: an unknown format or choice, or one without effect.
    """

    format: FormatSpec
    rounding: str = "nearest"
    source: str = "hp"
    transform: Hadamard | Mapping[str, Any] | int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", formats.get(self.format))  # type: ignore[arg-type]
        object.__setattr__(self, "transform", _transform(self.transform))
        _choice("rounding", self.rounding, "nearest", "stochastic")
        _choice("source", self.source, "hp", "q")
        if self.rounding == "stochastic" and not self.rounds:
            raise ValueError("rounding=stochastic has no effect on fp32, which does not round: leave it out")

    @property
    def rounds(self) -> bool:
        return self.grid.name != "fp32"

    @property
    def grid(self) -> Format:
        """`format`, which `__post_init__` has looked up."""
        return self.format  # type: ignore[return-value]

    def __str__(self) -> str:
        parts = [self.grid.name, *(["stochastic"] if self.rounding == "stochastic" else [])]
        parts += [f"of {self.source}"] if self.source == "q" else []
        return " ".join([*parts, *([str(self.transform)] if self.transform else [])])


@dataclass(frozen=True)
class Accumulate:
    """A product is summed in parts: `every` terms in the products' own dtype, then rounded with the sum so far.

    Args:
        format: of the sum so far, at no scale: "fp169", "bf16", "fp16"; or "fp32".
        every: terms in a part.
    """

    format: FormatSpec
    every: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", formats.get(self.format))  # type: ignore[arg-type]
        grid: Any = self.format
        if grid.scaled or grid.block is not None:
            raise ValueError(f"accumulate: {grid.name} needs a scale, which a sum has not: give fp169, bf16 or fp16")
        if not isinstance(self.every, int) or isinstance(self.every, bool) or self.every < 1:
            raise ValueError(f"accumulate: every={self.every!r} is no number of terms: give 1 or more, such as 64")


SlotSpec = Slot | FormatSpec | None


@dataclass(frozen=True)
class Products:
    """Which operands of a model's products are rounded, to what.

    Args:
        x, w, dgrad_e, dgrad_w, wgrad_e, wgrad_x: a format, a Slot, or a mapping of what Slot takes; None, which is the
            default, is full precision.
        rules: mappings with a `pattern` (a glob of module names) and any slots: what matches has these instead; later
            rules win.
        skip: globs of modules to leave in full precision.
        first, last: False leaves the first, or the last, product with a weight in full precision: by the model's
            `last_products` if it names them, or else in the order of its modules.
        scale_rule, room: of formats with one scale a tensor, which is found from each tensor: when a largest value
            counts to the octave above (`lpt.formats.Format.carry`), and octaves of headroom.
        seed: of stochastic rounding and of signs.
        accumulate: what Accumulate takes, as a mapping, or None: how the three products of Linear and MatMul are
            summed. Slow; refused where there is a convolution that is not left out.

    Raises:
        ValueError: an unknown format, choice or key, or a slot that asks for what it cannot have.
    """

    x: SlotSpec = None
    w: SlotSpec = None
    dgrad_e: SlotSpec = None
    dgrad_w: SlotSpec = None
    wgrad_e: SlotSpec = None
    wgrad_x: SlotSpec = None
    rules: Sequence[Mapping[str, Any]] = ()
    skip: Sequence[str] = ()
    first: bool = True
    last: bool = True
    scale_rule: str = "floor"
    room: int = 0
    seed: int = 0
    accumulate: Accumulate | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "accumulate", _accumulate(self.accumulate))
        for name in SLOTS:
            object.__setattr__(self, name, _slot(name, getattr(self, name)))
        for key in ("rules", "skip"):
            value = getattr(self, key)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise ValueError(f"{key}={value!r} is not a list")
        object.__setattr__(self, "rules", tuple(_rule(rule) for rule in self.rules))
        for key in ("first", "last"):
            if not isinstance(getattr(self, key), bool):
                raise ValueError(f"{key}={getattr(self, key)!r}: give true, or false to leave it in full precision")
        _choice("scale_rule", self.scale_rule, *RULES)
        if not isinstance(self.room, int) or isinstance(self.room, bool) or self.room < 0:
            raise ValueError(f"room={self.room!r}: give octaves of headroom, 0 or more")

    def of(self, module: str) -> dict[str, Slot]:
        """What the slots of the module called `module` ask for; those in full precision are not in it.

        Raises:
            ValueError: a transform of one operand only, or without a rounding.
        """
        found = {name: getattr(self, name) for name in SLOTS}
        for rule in self.rules:
            if fnmatch.fnmatchcase(module, rule["pattern"]):
                found |= {name: slot for name, slot in rule.items() if name != "pattern"}
        slots = {name: slot for name, slot in found.items() if slot is not None}
        for product in PRODUCTS:
            transform_of(product, slots)
        return slots

    @property
    def asked(self) -> bool:
        """Whether any slot, anywhere, asks for anything."""
        return (
            self.accumulate is not None
            or any(getattr(self, name) is not None for name in SLOTS)
            or any(slot is not None for rule in self.rules for name, slot in rule.items() if name != "pattern")
        )


def transform_of(product: str, slots: Mapping[str, Slot]) -> Hadamard | None:
    """The transform of both operands of a product.

    Raises:
        ValueError: they ask for two, or neither is rounded.
    """
    pair = [slots[name] for name in PRODUCTS[product] if name in slots]
    asked = {slot.transform for slot in pair if slot.transform is not None}
    if len(asked) > 1:
        both = " and ".join(sorted(map(str, asked)))
        raise ValueError(
            f"{' and '.join(PRODUCTS[product])} ask for {both}: both operands of a product have one transform, so give "
            "it to one of them, or the same to both"
        )
    if asked and not any(slot.rounds for slot in pair):
        raise ValueError(
            f"the transform of {' and '.join(PRODUCTS[product])} has no effect, since neither is rounded: give one of "
            "them a format, or leave the transform out"
        )
    return next(iter(asked), None)  # type: ignore[return-value]


def _slot(name: str, spec: Any) -> Slot | None:
    if spec is None:
        return None
    keys = {field.name for field in fields(Slot)}
    if isinstance(spec, Mapping) and "element" not in spec:
        if "format" not in spec or set(spec) - keys:
            raise ValueError(
                f"{name} has a format and any of rounding, source, transform, got {', '.join(map(str, spec))}: write "
                "for example {format: mxfp4, rounding: stochastic}"
            )
        spec = Slot(**{str(key): value for key, value in spec.items()})
    slot = spec if isinstance(spec, Slot) else Slot(spec)
    if slot.source == "q" and name not in ("dgrad_w", "wgrad_x"):
        why = "is what the forward product uses" if name in ("x", "w") else "is an error, which no forward product uses"
        raise ValueError(f"{name} {why}: source=q is for dgrad_w and wgrad_x; leave it out here")
    return slot


def _rule(rule: Any) -> dict[str, Any]:
    if not isinstance(rule, Mapping):
        raise ValueError(f"the rule {rule!r} is not a mapping: write {{pattern: 'blocks.0.*', wgrad_e: mxfp8_e5m2}}")
    if "pattern" not in rule or (odd := sorted(set(rule) - {"pattern", *SLOTS})):
        got = f"{odd[0]!r} is no slot" if "pattern" in rule else "there is no pattern"
        raise ValueError(f"a rule has a pattern and any of {', '.join(SLOTS)}; in {dict(rule)} {got}")
    return {key: value if key == "pattern" else _slot(key, value) for key, value in rule.items()}


def _transform(spec: Any) -> Hadamard | None:
    if spec is None or isinstance(spec, Hadamard):
        return spec
    if isinstance(spec, Mapping):
        if odd := sorted(set(spec) - {"size", "signs"}):
            raise ValueError(f"a transform has a size and signs, got {odd[0]!r}: write {{size: 16, signs: fixed}}")
        return Hadamard(**spec)
    return Hadamard(spec)


def _accumulate(spec: Any) -> Accumulate | None:
    if spec is None or isinstance(spec, Accumulate):
        return spec
    if not isinstance(spec, Mapping) or set(spec) != {"format", "every"}:
        raise ValueError(f"accumulate={spec!r} is not a format and a number: write {{format: fp169, every: 64}}")
    return Accumulate(**spec)


def _choice(key: str, got: str, *valid: str) -> None:
    if got not in valid:
        raise ValueError(f"{key}={got!r} is not one of {', '.join(valid)}")
