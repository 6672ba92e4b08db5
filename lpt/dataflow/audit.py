"""Proof by value that a model computes on its formats: every operand of every product, forward and backward.

The audit does not trust hooks. It watches the products that PyTorch dispatches (convolutions, matrix products and
their backward products) and asks of each operand whether rounding leaves it as it is, at some power-of-two scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry

from .. import formats
from ..formats import Format
from ..formats.scaling import scale_of
from ..weights import QuantizedWeights
from ..weights.parameters import quantizable
from .flow import Flow
from .modes import Watching
from .products import OPERANDS, hides_products, module_running, moves

_ROOMS = 40  # how far above its values' exponent a tensor's scale may lie


@dataclass(frozen=True)
class Operand:
    """One operand of one product."""

    product: int  # which product, counted from 0
    module: str  # name of the module that ran the product, or ran it forward
    operator: str
    backward: bool
    position: str  # "input", "weight", "error", "left", "right"
    parameter: str  # the weight that it is, or ""
    grid: str  # "A", "E", "W", their "dual" forms such as "A dual", or "" when it is on no grid
    macs: int  # multiply-accumulates of the product


class Audit(Watching):
    """Within it, all products of `flow.model` are recorded in `operands`.

        with Audit(flow, weights) as audit:
            loss(model(x)).backward()
        assert not audit.off_grid()

    Args:
        flow: the handle of `attach_`; A and E must be on the grids of its formats.
        weights: the model's quantized weights, among which one in full precision is on no grid; None, or those of a
            scheme over fp32, means that all are in full precision by choice.
    """

    def __init__(self, flow: Flow, weights: QuantizedWeights | None = None) -> None:
        super().__init__()
        self.weights = weights
        self._mode = flow.mode
        self.operands: list[Operand] = []
        self.activation = _formats(flow, "activation")
        self.error = _formats(flow, "error")
        self._parameters = {p.untyped_storage().data_ptr(): name for name, p in quantizable(flow.model).items()}
        self._products = 0
        self._plain_attention = sdpa_kernel(SDPBackend.MATH)

    def __enter__(self) -> Audit:
        self._mode.duals = []
        self._plain_attention.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._plain_attention.__exit__(*error)
        self._mode.duals = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func.overloadpacket
        if self._mode.tracer is not None:  # the model is only looked at
            return out
        if self._mode.duals and moves(func) and isinstance(out, Tensor) and any(map(self._made_dual, _strided(args))):
            self._mode.duals.append(out)
        if packet in OPERANDS:
            macs = flop_registry[packet](*args, **kwargs, out_val=out) // 2 if packet in flop_registry else 0
            self._products += 1
            for position, value in zip(OPERANDS[packet], args, strict=False):
                if position is not None:
                    self._record(packet, position, value, macs)
        elif hides_products(packet):
            self._products += 1
            self._append(packet, "hidden", "", "", 0)
        return out

    def off_grid(self) -> list[Operand]:
        """The operands that lie on no declared grid."""
        return [o for o in self.operands if not o.grid]

    def products(self) -> dict[int, list[Operand]]:
        """The operands of each product."""
        found: dict[int, list[Operand]] = {}
        for o in self.operands:
            found.setdefault(o.product, []).append(o)
        return found

    def covered(self, backward: bool = False, module: str | None = None) -> Any:
        """Share of the forward (or backward) multiply-accumulates whose operands all lie on their grids.

        Args:
            module: of this module alone; the result is None if it has none.
        """
        own = [p for p in self.products().values() if p[0].backward == backward and module in (None, p[0].module)]
        total = sum(product[0].macs for product in own)
        covered = sum(product[0].macs for product in own if all(o.grid for o in product))
        return covered / total if total else (0.0 if module is None else None)

    def _record(self, packet: Any, position: str, value: Tensor, macs: int) -> None:
        name = self._parameters.get(value.untyped_storage().data_ptr(), "")
        if name:
            self._append(packet, position, name, self._weight_grid(name), macs)
            return
        kinds = {"E": self.error, "A": self.activation} if self._tracker.is_bw else {"A": self.activation}
        found = [kind for kind, candidates in kinds.items() if any(on_grid(value, f) for f in candidates)]
        if not found and self._made_dual(value):
            found = [f"{k} dual" for k, candidates in kinds.items() if any(on_dual_grid(value, f) for f in candidates)]
        self._append(packet, position, "", found[0] if found else "", macs)

    def _made_dual(self, value: Tensor) -> bool:
        """Whether a quantizer made this as the sum of two values. A stray sum of two values has the same look."""
        pointer = value.untyped_storage().data_ptr()
        return any(dual.untyped_storage().data_ptr() == pointer for dual in self._mode.duals or [])

    def _weight_grid(self, name: str) -> str:
        if self.weights is None or self.weights.scheme.format.name == "fp32":
            return "W fp32"
        if name not in self.weights.params:
            return ""
        p = self.weights.by_channel(name, self.weights.params[name].detach())
        return "W" if torch.equal(self.weights.scheme.format.round(p, scale=self.weights.scales[name]), p) else ""

    def _append(self, packet: Any, position: str, parameter: str, grid: str, macs: int) -> None:
        backward = self._tracker.is_bw
        where = (self._products, module_running(self._tracker, self._ran, backward), str(packet), backward)
        self.operands.append(Operand(*where, position, parameter, grid, macs))


def _strided(values: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(values) if isinstance(x, Tensor) and x.layout == torch.strided]


def on_grid(x: Tensor, format: Format) -> bool:
    """Whether rounding to `format` leaves x as it is, bit for bit, at some scale (one scale for the tensor)."""
    if x.numel() == 0:
        return True
    scale = scale_of(x)
    above = format.top_exponent - format.anchor  # octaves in which a tensor's largest value may lie above the anchor
    rooms = range(-above, _ROOMS) if format.scaled else range(1)
    return any(torch.equal(format.round(x, format.scale_for(scale + room)), x) for room in rooms)


def on_dual_grid(x: Tensor, format: Format) -> bool:
    """Whether x is the sum of two tensors on the grid of `format`, the first of them x rounded."""
    scale = scale_of(x)
    return any(on_grid(x - format.round(x, format.scale_for(scale + room)), format) for room in range(3))


def _formats(flow: Flow, kind: str) -> set[Format]:
    """Of all modules, since roles may still change."""
    used = {flow.flow.format_of(kind, name) for name in flow.placing.every}
    asked = {format for format in used if format.name != "fp32"}
    return asked or {formats.get("fp32")}
