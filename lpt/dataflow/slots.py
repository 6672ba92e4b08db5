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
from ..formats import Blocks, Format
from ..formats.base import TIES
from ..formats.eden import check_eden
from ..formats.scaling import RULES, check_room
from .delayed import Delayed, delayed
from .turns import Hadamard, choice, hadamard

PRODUCTS = {"forward": ("x", "w"), "dgrad": ("dgrad_e", "dgrad_w"), "wgrad": ("wgrad_e", "wgrad_x")}
SLOTS = tuple(slot for pair in PRODUCTS.values() for slot in pair)
OF = {slot: product for product, pair in PRODUCTS.items() for slot in pair}
KINDS = ("linear", "convolution", "matmul")
FormatSpec = str | Sequence[int] | Mapping[str, Any] | Format


@dataclass(frozen=True)
class Slot:
    """What one operand of one product is rounded to.

    Args:
        format: as `lpt.formats.get` takes it; "fp32" does not round. Blocks run along what the product sums over.
        rounding: "nearest" or "stochastic"; "floor"; "away", "zero" or "log", to nearest with other ties than to even
            (`lpt.formats.Format.round`); or "eden", to nearest with stochastic scales that make up for it, a factor
            for as many elements as the transform has (`lpt.formats.eden`).
        source: "hp", the unrounded tensor; "q", what the forward product used, rounded once more (of dgrad_w and
            wgrad_x; with format "fp32": just what the forward product used); "turned", the same without turning the
            forward product's transform back first: the gradient is turned back instead.
        transform: None, or what `Hadamard` takes: a size, a mapping, or a Hadamard. It is applied to both operands of
            the product, and cancels out in it.
        unsigned: None, or the format that takes the place of `format` where a tensor has no negative values.
        scaling: None, or what `Delayed` takes, as a mapping: the scale follows from the tensors before.
        gradient: of x and w, what passes back to them: "straight", all of it; "clip", where |x / scale| is below the
            format's largest value; "trust", where rounding moved it by half a step of the grid at most.

    Raises:
        ValueError: an unknown format or choice, or one without effect.
    """

    format: FormatSpec
    rounding: str = "nearest"
    source: str = "hp"
    transform: Hadamard | Mapping[str, Any] | int | None = None
    gradient: str = "straight"
    scaling: Delayed | Mapping[str, Any] | None = None
    unsigned: FormatSpec | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", formats.get(self.format))  # type: ignore[arg-type]
        object.__setattr__(self, "transform", hadamard(self.transform))
        object.__setattr__(self, "scaling", delayed(self.scaling, self.grid))
        if self.unsigned is not None:
            object.__setattr__(self, "unsigned", formats.get(self.unsigned))  # type: ignore[arg-type]
            if not all(isinstance(grid, Blocks) and grid.whole for grid in (self.grid, self.unsigned)) or self.scaling:
                raise ValueError("unsigned= is for one scale a tensor, found from it: give formats such as int4/tensor")
        choice("rounding", self.rounding, "nearest", "stochastic", "floor", *TIES[1:], "eden")
        choice("source", self.source, "hp", "q", "turned")
        choice("gradient", self.gradient, "straight", "clip", "trust")
        for key, usual in (("rounding", "nearest"), ("gradient", "straight")):
            if (got := getattr(self, key)) != usual and not self.rounds:
                raise ValueError(f"{key}={got} has no effect on fp32, which does not round: leave it out")
        if self.rounding == "eden":
            check_eden(self.grid)

    @property
    def rounds(self) -> bool:
        return self.grid.name != "fp32"

    @property
    def turn(self) -> Hadamard | None:
        """`transform`, which `__post_init__` has read."""
        return self.transform  # type: ignore[return-value]

    @property
    def random(self) -> bool:
        """Whether it takes random bits."""
        return self.rounding in ("stochastic", "eden")

    @property
    def grid(self) -> Format:
        """`format`, which `__post_init__` has looked up."""
        return self.format  # type: ignore[return-value]

    @property
    def follows(self) -> Delayed | None:
        """`scaling`, which `__post_init__` has read."""
        return self.scaling  # type: ignore[return-value]

    def __str__(self) -> str:
        parts = [self.grid.name, *([self.rounding] if self.rounding != "nearest" else [])]
        parts += [str(self.scaling)] if self.scaling else []
        parts += [f"or {self.unsigned.name}"] if isinstance(self.unsigned, Format) else []
        parts += [f"of {self.source}"] if self.source != "hp" else []
        parts += [self.gradient] if self.gradient != "straight" else []
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
        kinds: which kinds of product are rounded: "linear", "convolution", "matmul"; all, unless given.
        first, last: False leaves the first, or the last, product with a weight in full precision: by the model's
            `last_products` if it names them, or else in the order of its modules. first="unembedded" leaves the first
            one out only where no embedding comes before it, which then is the first layer.
        skip_first, skip_last: how many more products with a weight are left in full precision at either end, in the
            order of the modules; below 1, as a share of them, rounded up.
        phases: mappings of `start`, a share of the run, and `full`, a list of products ("forward", "dgrad", "wgrad")
            that are in full precision from then on; `Multiplied.advance` is told how far a run is.
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
    kinds: Sequence[str] = KINDS
    first: bool | str = True
    last: bool = True
    skip_first: float = 0
    skip_last: float = 0
    phases: Sequence[Mapping[str, Any]] = ()
    scale_rule: str = "floor"
    room: int = 0
    seed: int = 0
    accumulate: Accumulate | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "accumulate", _accumulate(self.accumulate))
        for name in SLOTS:
            object.__setattr__(self, name, _slot(name, getattr(self, name)))
        for key in ("rules", "skip", "kinds", "phases"):
            value = getattr(self, key)
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise ValueError(f"{key}={value!r} is not a list")
        object.__setattr__(self, "rules", tuple(_rule(rule) for rule in self.rules))
        object.__setattr__(self, "phases", tuple(_phase(phase) for phase in self.phases))
        for kind in self.kinds:
            choice("kinds", kind, *KINDS)
        for key in ("first", "last"):
            if not isinstance(value := getattr(self, key), bool) and (key, value) != ("first", "unembedded"):
                raise ValueError(f"{key}={value!r}: give true, or false to leave it in full precision")
        for key in ("skip_first", "skip_last"):
            value = getattr(self, key)
            if (
                not isinstance(value, (int, float))
                or isinstance(value, bool)
                or value < 0
                or (value > 1) > (value % 1 == 0)
            ):
                raise ValueError(f"{key}={value!r}: give a number of products, or a share of them below 1")
        choice("scale_rule", self.scale_rule, *RULES)
        check_room("room", self.room)

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
        turned = [product for product in PRODUCTS if transform_of(product, slots) is not None]
        over = "dgrad_e" in slots and slots["dgrad_e"].turn is not None and slots["dgrad_e"].turn.over == "tokens"
        if over and "dgrad" in turned:
            raise ValueError("dgrad_e has a transform over tokens, and dgrad_w asks for another: give one of them")
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
    asked = {slot.turn for slot in pair if slot.turn is not None and slot.turn.over == "sum"}
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
                f"{name} has a format and any of rounding, source, transform, gradient, got {', '.join(map(str, spec))}"
                ": write for example {format: mxfp4, rounding: stochastic}"
            )
        spec = Slot(**{str(key): value for key, value in spec.items()})
    slot = spec if isinstance(spec, Slot) else Slot(spec)
    if slot.source != "hp" and name not in ("dgrad_w", "wgrad_x"):
        why = "is what the forward product uses" if name in ("x", "w") else "is an error, which no forward product uses"
        raise ValueError(f"{name} {why}: source={slot.source} is for dgrad_w and wgrad_x; leave it out here")
    if slot.gradient != "straight" and name not in ("x", "w"):
        raise ValueError(
            f"gradient={slot.gradient} is for x and w, to which gradients pass back; leave it out of {name}"
        )
    if slot.turn is not None and slot.turn.over == "tokens" and not (name == "dgrad_e" and slot.rounds):
        raise ValueError(f"a transform over tokens is for dgrad_e, where it is rounded; leave it out of {name}")
    return slot


def _rule(rule: Any) -> dict[str, Any]:
    if not isinstance(rule, Mapping):
        raise ValueError(f"the rule {rule!r} is not a mapping: write {{pattern: 'blocks.0.*', wgrad_e: mxfp8_e5m2}}")
    if "pattern" not in rule or (odd := sorted(set(rule) - {"pattern", *SLOTS})):
        got = f"{odd[0]!r} is no slot" if "pattern" in rule else "there is no pattern"
        raise ValueError(f"a rule has a pattern and any of {', '.join(SLOTS)}; in {dict(rule)} {got}")
    return {key: value if key == "pattern" else _slot(key, value) for key, value in rule.items()}


def _phase(phase: Any) -> dict[str, Any]:
    if not isinstance(phase, Mapping) or {*phase} != {"start", "full"}:
        raise ValueError(f"the phase {phase!r} is no start and full: write {{start: 0.82, full: [forward]}}")
    start, full = phase["start"], phase["full"]
    if isinstance(start, bool) or not isinstance(start, (int, float)) or not 0 <= start <= 1:
        raise ValueError(f"the phase's start={start!r}: give a share of the run, from 0 to 1")
    for product in [full] if isinstance(full, str) else full:
        choice("full", product, *PRODUCTS)
    return {"start": start, "full": (full,) if isinstance(full, str) else tuple(full)}


def _accumulate(spec: Any) -> Accumulate | None:
    if spec is None or isinstance(spec, Accumulate):
        return spec
    if not isinstance(spec, Mapping) or set(spec) != {"format", "every"}:
        raise ValueError(f"accumulate={spec!r} is not a format and a number: write {{format: fp169, every: 64}}")
    return Accumulate(**spec)
