"""What a model's data flow got, as a table."""

from __future__ import annotations

from typing import Any

from torch.nn.utils import parametrize

from ..weights import QuantizedWeights
from ..weights.attach import ATTACHED as WEIGHTS
from .audit import Audit
from .auditing import audited
from .flow import INPUT, Flow

KINDS = ("activation", "error", "gradient")


class Report:
    """What each module of a model got; `str()` is a table, which ends with the audited coverage if asked for."""

    def __init__(self, flow: Flow, example: Any = None) -> None:
        self.audit: Audit | None = None
        self.failed = ""  # why the backward products were not seen
        self.weights: QuantizedWeights | None = flow.model.__dict__.get(WEIGHTS)
        if example is not None:
            self.audit, self.failed = self._audited(flow, example)
        rows = [*_arguments(flow), *_modules(flow, self.weights)]
        self.rows = rows if self.audit is None else [self._measured(row) for row in rows]
        self.notes = _notes(flow)

    def __str__(self) -> str:
        shares = () if self.audit is None else ("forward", "backward")
        head = ("module", "type", "A", "E", "W", "G", *shares, "left out because")
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
            share, what = 100 * self.audit.covered(), "activations" + " and weights" * (self.weights is not None)
            lines.append(f"{share:.1f} % of the forward multiply-accumulates use quantized {what}")
        return "\n".join(lines)

    def _audited(self, flow: Flow, example: Any) -> tuple[Audit, str]:
        args = tuple(example) if isinstance(example, (tuple, list)) else (example,)
        return audited(flow, lambda: flow.model(*args), self.weights)

    def _measured(self, row: tuple[str, ...]) -> tuple[str, ...]:
        """The row with the shares of the module's own multiplications that are covered, forward and backward."""
        assert self.audit is not None
        cells = [self.audit.covered(back, row[0]) for back in (False, True)]
        return (*row[:-1], *("-" if share is None else f"{100 * share:.0f} %" for share in cells), row[-1])


def _arguments(flow: Flow) -> list[tuple[str, ...]]:
    """A row for each argument of the model, once it has run; before, one for what the first will get."""
    entrance = flow.placing.entrance
    if not entrance.looked:
        return [(INPUT, "", _label(flow, INPUT, "activation"), "-", "-", "-", "")] if INPUT in flow.edges else []
    rows: list[tuple[str, ...]] = []
    for place, reason in sorted(entrance.chosen.items()):
        if place in entrance.met:
            got = "-" if reason or INPUT not in flow.edges else _label(flow, INPUT, "activation")
            why = reason or ("" if INPUT in flow.edges else "fp32 by choice")
            rows.append((f"{INPUT} {entrance.arguments.printed(place)}", "", got, "-", "-", "-", why))
    return rows


def _modules(flow: Flow, weights: QuantizedWeights | None) -> list[tuple[str, ...]]:
    named = dict(flow.model.named_modules())
    w: dict[str, str] = (
        {} if weights is None else {n.rpartition(".")[0]: weights.scheme.format.name for n in weights.names}
    )
    owners = {name.rpartition(".")[0] for name in flow.gradients} | w.keys()
    listed = [n for n in named if n in flow.edges or n in flow.left_out or n in owners]
    rows: list[tuple[str, ...]] = []
    for n in listed:
        a, e, g = (_label(flow, n, kind) for kind in KINDS)
        rows.append((n, type(named[n]).__name__, a, e, w.get(n, "-"), g, _why(flow, n)))
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
