"""Which modules of a model are products, which of them are left in full precision and why, and what is refused."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from .kinds import Convolution, Kind
from .multiplying import kind_of
from .roles import HIDES_PRODUCTS
from .slots import PRODUCTS, Accumulate, Products, Slot

Found = dict[str, tuple[nn.Module, Kind]]  # by module name


def products_of(model: nn.Module, accumulate: Accumulate | None) -> Found:
    """The modules that are products, those inside of modules that hide theirs left out."""
    found: Found = {}
    hidden: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__} whose shape is not known yet: run the model once "
                "on a batch, then attach"
            )
        if isinstance(module, HIDES_PRODUCTS):
            hidden.append(f"{name}." if name else "")
            continue
        kind = kind_of(module, accumulate)
        if kind is not None and not any(name.startswith(prefix) for prefix in hidden):
            found[name] = module, kind
    return found


def left_out(model: nn.Module, products: Products, found: Found) -> dict[str, str]:
    """Module name -> why its product stays in full precision.

    Raises:
        ValueError: a pattern that matches nothing, or a module whose products are hidden.
    """
    _check_patterns(model, products, found)
    return {**_left(model, products, found), **dict.fromkeys(_hidden(model, products.skip), "skip")}


def check(name: str, module: nn.Module, kind: Kind, slots: Mapping[str, Slot]) -> None:
    weight = module._parameters.get("weight")
    idle = [slot for slot in PRODUCTS["wgrad"] if slot in slots]
    if weight is not None and not weight.requires_grad and idle:
        rule = ", ".join(f"{slot}: null" for slot in idle)
        raise ValueError(
            f"{' and '.join(idle)} of {name!r} have no effect, since its weight is frozen (requires_grad=False): leave "
            f"them out by a rule {{pattern: {name}, {rule}}}"
        )
    if weight is None:
        return
    sums = kind.arranged("w", weight).shape
    for product, features in (("forward", sums[-1]), ("dgrad", sums[-2])):
        turns = [s.turn for n in PRODUCTS[product] if (s := slots.get(n)) and s.turn and s.turn.over == "sum"]
        sizes = [turn.fitting(features) for turn in turns]
        if sizes and features % sizes[0]:
            group = " of a group" if isinstance(kind, Convolution) else ""
            raise ValueError(
                f"a Hadamard transform of size {sizes[0]} does not divide the {features} features{group} that "
                f"{' and '.join(PRODUCTS[product])} of {name!r} are summed over: give another size by a rule, fit: "
                "true for the largest that does, or leave the layer out by skip="
            )


def _check_patterns(model: nn.Module, products: Products, found: Found) -> None:
    names = [name for name, _ in model.named_modules()]
    asked = [("skip", glob, names) for glob in products.skip]
    asked += [("the rule's pattern", rule["pattern"], [*found]) for rule in products.rules]
    for key, glob, valid in asked:
        if not fnmatch.filter(valid, glob):
            what = "module" if key == "skip" else "product"
            raise ValueError(f"{key} {glob!r} matches no {what} of the model; there are {', '.join(found)}")


def _left(model: nn.Module, products: Products, found: Found) -> dict[str, str]:
    left: dict[str, str] = {}
    for name, (module, kind) in found.items():
        if any(fnmatch.fnmatchcase(name, glob) for glob in products.skip):
            left[name] = "skip"
        elif type(kind).__name__.lower() not in products.kinds:
            left[name] = f"a {type(kind).__name__.lower()}, by choice of kinds"
        elif _own_forward(module):
            left[name] = "has a forward of its own"
    weighted = [name for name, (module, _) in found.items() if getattr(module, "weight", None) is not None]
    last = [*getattr(model, "last_products", weighted[-1:])]
    first = products.first
    kept = any(isinstance(m, nn.Embedding) for m in _before(model, weighted)) if first == "unembedded" else first
    for names, stays, why in ((weighted[:1], kept, "first"), (last, products.last, "last")):
        for name in names if not stays else ():
            left.setdefault(name, f"the {why} product, by choice")
    rest = [name for name in weighted if name not in left]
    for names, share, why in (
        (rest, products.skip_first, "first"),
        (rest[::-1], products.skip_last, "last"),
    ):
        count = math.ceil(share * len(rest)) if share < 1 else int(share)
        for name in names[:count]:
            left[name] = f"one of the {why} {count}, by choice"
    return left


def _before(model: nn.Module, weighted: Sequence[str]) -> Iterator[nn.Module]:
    for name, module in model.named_modules():
        if weighted[:1] == [name]:
            return
        yield module


def _hidden(model: nn.Module, skip: Sequence[str]) -> Iterator[str]:
    for name, module in model.named_modules():
        if isinstance(module, HIDES_PRODUCTS):
            if not any(fnmatch.fnmatchcase(name, glob) for glob in skip):
                raise ValueError(
                    f"{name or 'the model'} is a {type(module).__name__}, whose products are inside one fused "
                    "call: lpt.models.visible_(model, x) spells out attention; or leave it in full precision by "
                    f"skip=[{name!r}]"
                )
            yield name


def _own_forward(module: nn.Module) -> bool:
    """Whether the module's forward is another than that of torch's, or of ours, which it derives from."""
    ours = ("torch.nn.modules.", "lpt.dataflow.ops")
    own = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    return "forward" in vars(module) or not own.__module__.startswith(ours)
