"""What a model's data flow got, as a table."""

from __future__ import annotations

from typing import Any

import torch

from .audit import Audit
from .flow import INPUT, Flow


class Report:
    """What each module of a model got; `str()` is a table, which ends with the audited coverage if asked for."""

    def __init__(self, flow: Flow, example: Any = None) -> None:
        kinds = ("activation", "error", "gradient")
        self.rows = [
            (name, type_name, *(_label(flow, name, kind) for kind in kinds), flow.left_out.get(name, ""))
            for name, type_name in _modules(flow)
        ]
        self.audit = None if example is None else _audited(flow, example)

    def __str__(self) -> str:
        head = ("module", "type", "A", "E", "G", "left out because")
        table = [head, *self.rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        if self.audit is not None:
            share = 100 * self.audit.covered()
            lines.append(f"{share:.1f} % of the forward multiply-accumulates use quantized activations")
            lines += [
                f"not on a grid: {o.position} of {o.operator.removeprefix('aten.')} in {o.module or 'the model'} "
                "(made outside any module? see lpt.ops)"
                for o in self.audit.off_grid()
            ]
        return "\n".join(lines)


def _modules(flow: Flow) -> list[tuple[str, str]]:
    rows = [(INPUT, "")] if INPUT in flow.edges else []
    named = dict(flow.model.named_modules())
    owners = {name.rpartition(".")[0] for name in flow.gradients}
    rows += [(n, type(m).__name__) for n, m in named.items() if n in flow.edges or n in flow.left_out or n in owners]
    return rows


def _label(flow: Flow, name: str, kind: str) -> str:
    if kind == "gradient":
        weights = [q.format.name for n, q in flow.gradients.items() if n.rpartition(".")[0] == name]
        return ", ".join(weights) or "-"
    quantizer = flow.edges[name].quantizers().get(kind) if name in flow.edges else None
    if quantizer is None:
        return "-"
    return f"{quantizer.format.name} dual" if quantizer.rest else quantizer.format.name


def _audited(flow: Flow, example: Any) -> Audit:
    training = [module for module in flow.model.modules() if module.training]
    flow.model.eval()
    try:
        with torch.enable_grad(), Audit(flow) as audit, flow.probe():  # the audit finds modules by their gradients
            flow.model(*example) if isinstance(example, (tuple, list)) else flow.model(example)
    finally:
        for module in training:
            module.training = True
    return audit
