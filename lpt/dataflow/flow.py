"""Data-flow quantization: activations A, errors E and weight gradients G of a model (the paper's section 3).

W weights, A activations, E errors (dL/dA), G weight gradients. An *Edge* stands behind every module that makes new
values; it rounds A on the way forward and E on the way back, so that every operand of every product is on a grid.
G is rounded on `p.grad`, in `Flow.step`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..weights.parameters import quantizable
from .edge import PRODUCTS, Edge, InputEdge, why_no_edge
from .quantizer import Mode, Quantizer, move_scales
from .spec import DataFlow

INPUT = "(input)"
HANDLE = "_lpt_flow"  # where a model keeps its handle


class Flow:
    """The hooks on one model, their scales, and what a training loop calls; made by `attach_`."""

    def __init__(self, model: nn.Module, flow: DataFlow) -> None:
        self.model = model
        self.flow = flow
        self.mode = Mode()
        self.edges: dict[str, Edge] = {}
        self.left_out: dict[str, str] = {}  # module name -> why it has no Edge
        self.gradients: dict[str, Quantizer] = {}
        self._hooks: list[Any] = []
        self._attach()

    # -- in the training loop -----------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self) -> None:
        """Round G in place on every weight's `.grad`, then move the tracked scales of A, E and G.

        Call once per optimizer step: after backward, accumulation and all-reduce, before clipping and the step.
        """
        weights = quantizable(self.model)
        for name, quantizer in self.gradients.items():
            grad = weights[name].grad
            if grad is not None:
                grad.copy_(quantizer(grad, True))
        move_scales(list(self._parts().values()))

    @torch.no_grad()
    def quantize_gradients(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients by parameter name, rounded as `step` would round them; nothing is observed or moved."""
        with self.probe():
            return {n: self.gradients[n](g, True) if n in self.gradients else g for n, g in gradients.items()}

    @property
    def started(self) -> bool:
        """Whether every tracked scale that the last step could set is set; a compiled model changes then."""
        return not any(q.tracked and q.steps == 0 and not q.started for q in self._parts().values())

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within: A and E pass unchanged, and nothing is observed."""
        with self._switched(on=False):
            yield

    @contextmanager
    def probe(self) -> Iterator[None]:
        """Within: A and E are rounded with the scales as they are; nothing is observed, nothing moves."""
        with self._switched(observing=False):
            yield

    @contextmanager
    def measure(self) -> Iterator[Callable[[], dict[str, dict[str, float]]]]:
        """Within, count; what it yields, called, gives per Edge the shares of elements that saturated and underflowed.

        Keys are "activation/saturation", "activation/underflow", "error/..." and the number of nans, "nan".
        """
        for quantizer in self._parts().values():
            quantizer.counts = None
        with self._switched(counting=True):
            yield self._counted

    def remove(self) -> None:
        """Take every hook off; the model computes as it did before `attach_`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if HANDLE in self.model.__dict__:
            del self.model.__dict__[HANDLE]

    # -- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Tracked scales and the keys of stochastic rounding, by quantizer name."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: the state is of a model with other edges.
        """
        own = self._parts()
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())
            raise ValueError(
                f"the saved scales are of another data flow: {len(odd)} places differ, for example {odd[0]!r}; "
                "resume with the model and format= of the saved run"
            )
        for name, part in own.items():
            part.load_state_dict(state[name])

    # -- inside --------------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        modules = dict(self.model.named_modules())
        self._check_rules(modules)
        last = self._last(modules)
        for name, module in modules.items():
            reason = why_no_edge(module)
            if reason:
                self.left_out[name] = reason
            elif not any(module.children()):
                self._add_edge(name, module, name in last)
        if self.flow.input != "fp32":
            activation = self._quantizer("activation", INPUT, self.flow.input == "dual")
            if activation:
                self.edges[INPUT] = edge = InputEdge(self.model, self.mode, activation, None)
                self._hooks.append(self.model.register_forward_pre_hook(edge, with_kwargs=True))
        for name in quantizable(self.model):
            if quantizer := self._quantizer("gradient", name):
                self.gradients[name] = quantizer

    def _add_edge(self, name: str, module: nn.Module, last: bool) -> None:
        if last:
            activation = None
            choice = self.flow.last_error
            error = None if choice == "fp32" else self._quantizer("error", name, choice == "dual")
        else:
            activation, error = self._quantizer("activation", name), self._quantizer("error", name)
        if activation is None and error is None:
            self.left_out[name] = "fp32 by choice"
            return
        self.edges[name] = edge = Edge(self.model, self.mode, activation, error)
        self._hooks.append(module.register_forward_hook(edge))

    def _quantizer(self, kind: str, name: str, dual: bool = False) -> Quantizer | None:
        flow = self.flow
        format = flow.format_of(kind, name.rpartition(".")[0] if kind == "gradient" else name)
        if format.name == "fp32":
            return None
        stochastic = flow.rounding == "stochastic" and kind != "activation"
        key = f"{flow.seed}/{name}/{kind}/{_rank() if kind == 'error' else 0}" if stochastic else None
        room = {"activation": flow.room_activation, "error": flow.room_error, "gradient": flow.room_gradient}[kind]
        return Quantizer(format, room, flow.scaling == "tracked", self.mode, key, dual, flow.scale_rule)

    def _last(self, modules: dict[str, nn.Module]) -> set[str]:
        products = [name for name, module in modules.items() if isinstance(module, PRODUCTS)]
        if self.flow.last is None:
            return set(getattr(self.model, "last_products", products[-1:]))
        chosen = {name for name in modules if fnmatch.fnmatchcase(name, self.flow.last)}
        if not chosen:
            raise ValueError(f"last={self.flow.last!r} matches no module; the products are {', '.join(products)}")
        return chosen

    def _check_rules(self, modules: dict[str, nn.Module]) -> None:
        names = [*modules, *quantizable(self.model), INPUT]
        for rule in self.flow.rules:
            if not fnmatch.filter(names, rule["pattern"]):
                raise ValueError(
                    f"the rule's pattern {rule['pattern']!r} matches no module of the model; "
                    f"there are {', '.join(list(modules)[1:6])}, ..."
                )

    def _parts(self) -> dict[str, Quantizer]:
        """Every quantizer by name, the two of a dual one apart."""
        edges = {f"{name}/{kind}": q for name, edge in self.edges.items() for kind, q in edge.quantizers().items()}
        gradients = {f"{name}/gradient": q for name, q in self.gradients.items()}
        return {f"{name}:{i}": part for name, q in {**edges, **gradients}.items() for i, part in enumerate(q.parts())}

    def _counted(self) -> dict[str, dict[str, float]]:
        shares: dict[str, dict[str, float]] = {}
        for name, edge in self.edges.items():
            for kind, q in edge.quantizers().items():
                if q.counts is not None:
                    elements, saturated, underflowed, nan = q.counts.tolist()
                    own = shares.setdefault(name, {"nan": 0})
                    own[f"{kind}/saturation"] = saturated / max(1, elements)
                    own[f"{kind}/underflow"] = underflowed / max(1, elements)
                    own["nan"] += nan
        return shares

    @contextmanager
    def _switched(self, **switches: bool) -> Iterator[None]:
        before = {key: getattr(self.mode, key) for key in switches}
        for key, value in switches.items():
            setattr(self.mode, key, value)
        try:
            yield
        finally:
            for key, value in before.items():
                setattr(self.mode, key, value)


def _rank() -> int:
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if initialized else 0
