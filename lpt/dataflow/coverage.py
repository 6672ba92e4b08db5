"""What a model's data flow got, as a table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from .audit import Audit
from .flow import INPUT, Flow
from .switching import products_off

KINDS = ("activation", "error", "gradient")


class Report:
    """What each module of a model got; `str()` is a table, which ends with the audited coverage if asked for."""

    def __init__(self, flow: Flow, example: Any = None) -> None:
        self.audit: Audit | None = None
        self.failed = ""  # why the backward products were not seen
        if example is not None:
            self.audit, self.failed = _audited(flow, example)
        self.rows = [*_arguments(flow), *_modules(flow)]
        self.notes = _notes(flow)

    def __str__(self) -> str:
        head = ("module", "type", "A", "E", "G", "left out because")
        table = [head, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        lines += self.notes
        if self.audit is not None:
            lines += [
                f"not on a grid: {o.position} of {o.operator.removeprefix('aten.')} in {o.module or 'the model'}"
                f"{', backward' if o.backward else ''} (made outside any module? see lpt.ops)"
                for o in self.audit.off_grid()
            ]
            lines.append(
                f"{100 * self.audit.covered(True):.1f} % of the backward multiply-accumulates use quantized operands"
                if not self.failed
                else f"the backward products were not seen: {self.failed}"
            )
            share = 100 * self.audit.covered()
            lines.append(f"{share:.1f} % of the forward multiply-accumulates use quantized activations")
        return "\n".join(lines)


def _arguments(flow: Flow) -> list[tuple[str, ...]]:
    """A row for each argument of the model, once it has run; before, one for what the first will get."""
    entrance = flow.placing.entrance
    if not entrance.looked:
        return [(INPUT, "", _label(flow, INPUT, "activation"), "-", "-", "")] if INPUT in flow.edges else []
    rows: list[tuple[str, ...]] = []
    for place, reason in sorted(entrance.chosen.items()):
        if place in entrance.met:
            got = "-" if reason or INPUT not in flow.edges else _label(flow, INPUT, "activation")
            why = reason or ("" if INPUT in flow.edges else "fp32 by choice")
            rows.append((f"{INPUT} {entrance.arguments.printed(place)}", "", got, "-", "-", why))
    return rows


def _modules(flow: Flow) -> list[tuple[str, ...]]:
    named = dict(flow.model.named_modules())
    owners = {name.rpartition(".")[0] for name in flow.gradients}
    listed = [n for n in named if n in flow.edges or n in flow.left_out or n in owners]
    rows: list[tuple[str, ...]] = []
    for n in listed:
        rows.append((n, type(named[n]).__name__, *(_label(flow, n, kind) for kind in KINDS), _why(flow, n)))
    return rows


def _why(flow: Flow, name: str) -> str:
    """Why something that the row of this module might hold is not there."""
    reasons = [flow.left_out[name]] if name in flow.left_out else []
    edge = flow.edges.get(name)
    if edge is not None and not edge.ran:
        reasons.append("never ran so far" if flow.placing.known else "not seen yet")
    module = flow.model.get_submodule(name)
    if edge is not None and parametrize.is_parametrized(module) and _label(flow, name, "gradient") == "-":
        made = ", ".join(getattr(module, "parametrizations", {}))
        reasons.append(f"G of what its {made} is made of stays in full precision")
    if edge is not None and edge.blind:
        reasons.append(f"returns a {edge.blind}, in which no tensor was found")
    if edge is not None and name in flow.placing.late:
        reasons.append("ran only where the model was not looked at: what it is is a guess")
    if edge is not None and name in flow.placing.last:
        reasons.append("A: the network's output")
    return "; ".join(reasons)


def _label(flow: Flow, name: str, kind: str) -> str:
    if kind == "gradient":
        weights = [q.format.name for n, q in flow.gradients.items() if n.rpartition(".")[0] == name]
        return ", ".join(weights) or "-"
    quantizer = flow.edges[name].quantizers().get(kind) if name in flow.edges else None
    return "-" if quantizer is None else f"{quantizer.format.name} {quantizer.form}".rstrip()


def _notes(flow: Flow) -> list[str]:
    notes = []
    if change := flow.changed():
        notes.append(f"the model changed after attach_: {change}; this report is of the model as it was")
    if not flow.placing.known and flow.edges:
        notes.append("which product is last is a guess by the modules' order until the first forward pass")
    return notes


def _audited(flow: Flow, example: Any) -> tuple[Audit, str]:
    """The products of one pass forward and back, and why there was none back."""
    model = flow.model
    training = [module for module in model.modules() if module.training]
    # Views, so that nothing arrives in any `.grad`; they lie where the parameters lie.
    weights = {name: p.view_as(p) for name, p in model.named_parameters() if p.requires_grad}
    model.eval()
    failed = ""
    try:
        flow.placing.still = flow.stepped  # a report in the middle of training changes no roles
        # The audit finds modules by their gradients, and looks for the Edges' grids, not for those of products.
        with torch.enable_grad(), Audit(flow) as audit, flow.probe(), products_off(model):
            args = tuple(example) if isinstance(example, (tuple, list)) else (example,)
            out = functional_call(model, weights, args)
            try:
                _backward(list(weights.values()), out)
            except RuntimeError as error:
                failed = str(error).strip().splitlines()[0]
    finally:
        flow.placing.still = False
        for module in training:
            module.training = True
    return audit, failed


def _backward(weights: list[Tensor], out: Any) -> None:
    """Random errors through every product."""
    made = [x for x in pytree.tree_leaves(out) if isinstance(x, Tensor) and x.requires_grad]
    if not made or not weights:
        raise RuntimeError("nothing of the model requires a gradient")
    generator = torch.Generator().manual_seed(0)
    errors = [torch.randn(x.shape, generator=generator).to(x) for x in made]
    torch.autograd.grad(made, weights, errors, allow_unused=True)
