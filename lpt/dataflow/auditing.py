"""One pass forward and back under the audit, and what it says in one line: how much of the work is on the grids."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.stateless import _reparametrize_module  # what torch.func.functional_call is made of
from torch.utils import _pytree as pytree

from ..weights import QuantizedWeights
from .attach_products import Multiplied
from .audit import Audit, Operand
from .audit_products import ProductsAudit, SlotOperand
from .flow import Flow
from .modes import evaluating
from .switching import products_off

CURE = (
    "Values that no module makes: lpt.models.visible_(model, x) makes modules of the operations in its parts, or write "
    "them as lpt.ops (docs/own.md)"
)
HIDDEN = (
    "Kernels hide their products: lpt.models.visible_(model, x) spells out torch's attention; for others take modules "
    "that spell theirs out (docs/own.md)"
)
# By what the user chose:
LEFT_OUT, UNQUANTIZED, IN_PART = CHOSEN = (" (left out)", ", not quantized", " (not in all of its slots)")
SHOWN = 4  # modules that are named


@dataclass(frozen=True)
class Coverage:
    """How much of a model's work is done on the grids that were asked for.

    Attributes:
        share: of the multiplications, forward and backward, those whose two operands lie on their grids, 0 to 1.
        kinds: what is rounded, of "A", "E" and "W"; and "products", if they round their operands.
        missing: what is not, "products in blocks.*.attn", the largest first; what hides its products comes last.
        hidden: whether something does, so that `share` is of what can be seen.
        failed: why the backward products were not seen; "" if they were.
    """

    share: float
    kinds: tuple[str, ...]
    missing: tuple[str, ...]
    hidden: bool
    failed: str

    def __str__(self) -> str:
        if not self.kinds:
            return "coverage: nothing is rounded"
        full = [kind for kind in "AEW" if kind not in (*self.kinds, *("AEW" if "products" in self.kinds else ""))]
        text = f"coverage: {100 * self.share:.1f} % of the multiplications have both operands on the grids of "
        text += f"{', '.join(self.kinds)}" + (f" ({', '.join(full)} in full precision)" if full else "")
        if self.failed:
            text += f"; those of the backward pass were not seen: {self.failed}"
        if not self.missing:
            return text
        more = f" and {len(self.missing) - SHOWN} more" if len(self.missing) > SHOWN else ""
        chosen = all(name.endswith(CHOSEN) for name in self.missing)
        cure = HIDDEN if self.hidden else "" if chosen else CURE
        return f"{text}\n  not so: {', '.join(self.missing[:SHOWN])}{more}. {cure}".rstrip()


def audited(flow: Flow, forward: Callable[[], Any], weights: QuantizedWeights | None = None) -> tuple[Audit, str]:
    """The products of `forward()` and of its way back to the parameters, in evaluation; and why there was none back.

    Scales stay as they are, and so does everything else of the model. Errors are random numbers.
    """
    model = flow.model
    failed = ""
    try:
        flow.placing.still = flow.stepped  # a report in the middle of training changes no roles
        # The audit finds modules by their gradients, and looks for the Edges' grids, not for those of products.
        with evaluating(model), torch.enable_grad(), Audit(flow, weights) as audit, flow.probe(), products_off(model):
            with _views(model) as inputs:
                out = forward()
            try:
                backward(inputs, out)
            except RuntimeError as error:
                failed = str(error).strip().splitlines()[0]
    finally:
        flow.placing.still = False
    return audit, failed


@contextmanager
def _views(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within, views stand for the parameters: no hook of a parameter runs, and the views lie where they lie."""
    views = {name: p.view_as(p) for name, p in model.named_parameters() if p.requires_grad}
    with _reparametrize_module(model, views, tie_weights=True):
        yield list(views.values())


def backward(inputs: Sequence[Tensor], out: Any) -> None:
    """Random errors through every product."""
    made = [x for x in pytree.tree_leaves(out) if isinstance(x, Tensor) and x.requires_grad]
    if not made or not inputs:
        raise RuntimeError("nothing of the model requires a gradient")
    generator = torch.Generator().manual_seed(0)
    errors = [torch.randn(x.shape, generator=generator).to(x) for x in made]
    torch.autograd.grad(made, list(inputs), errors, allow_unused=True)


def coverage(
    flow: Flow, forward: Callable[[], Any], weights: QuantizedWeights | None = None, products: Multiplied | None = None
) -> Coverage:
    """How much of `forward()` and of its way back is done on grids: those of `flow` and `weights`, or of `products`.

    A weight in full precision counts as covered only if `weights` is None or fp32 throughout. Where some products are
    rounded, the others have to lie on grids of `flow` and `weights`, and full precision is none.
    """
    audit, failed = audited(flow, forward, weights)
    asked = {
        kind: any(f.name != "fp32" for f in formats) for kind, formats in (("A", audit.activation), ("E", audit.error))
    }
    asked["W"] = weights is not None and weights.scheme.format.name != "fp32"
    kinds = tuple(kind for kind, wanted in asked.items() if wanted)
    rounds = products is not None and bool(products.rounding)
    rounding = _rounding(products, forward, asked["W"]) if products is not None and rounds else {}
    total = covered = 0
    lost: dict[str, int] = {}
    for operands in audit.products().values():
        total += operands[0].macs
        bad = [o for o in operands if not o.grid or (rounds and not _asked(o, asked))]
        whole = rounding.get((operands[0].module, operands[0].backward))
        if whole or not bad:
            covered += operands[0].macs
        else:
            for name in {_name(o, {} if products is None else products.left_out, whole is False) for o in bad}:
                lost[name] = lost.get(name, 0) + operands[0].macs
    hidden = any(o.position == "hidden" or (not o.grid and o.module in flow.left_out) for o in audit.operands)
    share = covered / total if total else 0.0
    kinds = (*kinds, "products") if rounds else kinds
    return Coverage(share, kinds, tuple(sorted(lost, key=lambda name: -lost[name])), hidden, failed)


def _asked(o: Operand, asked: Mapping[str, bool]) -> bool:
    """Whether a grid other than full precision was asked for: of W, of A, or, where both may stand, of A and E."""
    return asked["W"] if o.parameter else asked["A"] and (asked["E"] or not o.backward)


def _name(o: Operand, left_out: Mapping[str, str], in_part: bool) -> str:
    """For people, alike for blocks that differ in their numbers."""
    where = re.sub(r"\d+", "*", o.module if in_part or o.module in left_out else o.parameter or o.module)
    if o.module in left_out:
        return f"{where}{LEFT_OUT}"
    if in_part:
        return f"{where}{IN_PART}"
    return f"{where}{UNQUANTIZED}" if o.parameter else f"products in {where or 'the model itself'}"


def _rounding(products: Multiplied, forward: Callable[[], Any], weights: bool) -> dict[tuple[str, bool], bool]:
    """Modules, and whether it is their backward pass, of which `products` rounds what was asked for: whether that is
    all operands, `weights` counted."""
    with torch.enable_grad(), products.probe(), ProductsAudit(products) as audit:
        with _views(products.model) as inputs:
            out = forward()
        backward(inputs, out)
    found: dict[tuple[str, bool], list[SlotOperand]] = {}
    for o in audit.operands:
        found.setdefault((o.module, o.slot not in ("x", "w")), []).append(o)
    return {
        place: all(o.format != "fp32" or (weights and o.slot in ("w", "dgrad_w")) for o in operands)
        for place, operands in found.items()
        if all(o.on_grid for o in operands)
    }
