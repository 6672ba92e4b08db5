"""Data-flow quantization: activations A, errors E and weight gradients G of a model (the paper's section 3).

W weights, A activations, E errors (dL/dA), G weight gradients. An *Edge* stands behind every module that makes new
values; it rounds A on the way forward and E on the way back, so that every operand of every product is on a grid.
G is rounded on `p.grad`, in `Flow.step`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from . import formats
from .edge import Edge, InputEdge, why_no_edge
from .formats import Format
from .parameters import quantizable
from .quantizer import Mode, Quantizer, move_scales

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

INPUT = "(input)"
FormatSpec = str | Sequence[int] | Format


@dataclass(frozen=True)
class DataFlow:
    """Which formats A, E and G have, and how their scales and rounding work.

    Args:
        activation, error, gradient: formats, as `lpt.formats.get` takes them; "fp32" leaves a kind alone.
        scaling: "tracked", a scale that moves by at most one a step, or "current", from each tensor's maximum.
        rounding: "nearest" or "stochastic", for E and G (A is always rounded to nearest).
        room_activation, room_error, room_gradient: octaves of headroom above the largest value.
        input, last_error: "dual" (the sum of two values of the format), "single", or "fp32" for the network's
            input and for the error of its last product.
        last: glob of the names of the last products, whose output is not quantized; by default those that the model
            names as its `last_products`, or else the last linear or convolution in the model's order.
        rules: mappings with a `pattern` (a glob of module names) and any of activation, error, gradient: what
            matches gets these formats instead; later rules win.
        seed: of stochastic rounding.

    Raises:
        ValueError: an unknown format, choice or key.
    """

    activation: FormatSpec = "fp134"
    error: FormatSpec = "fp134"
    gradient: FormatSpec = "fp134"
    scaling: str = "tracked"
    rounding: str = "nearest"
    room_activation: int = 1
    room_error: int = 1
    room_gradient: int = 2
    input: str = "dual"
    last_error: str = "dual"
    last: str | None = None
    rules: Sequence[Mapping[str, Any]] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for kind in ("activation", "error", "gradient"):
            formats.get(getattr(self, kind))
        _choice("scaling", self.scaling, "tracked", "current")
        _choice("rounding", self.rounding, "nearest", "stochastic")
        _choice("input", self.input, "dual", "single", "fp32")
        _choice("last_error", self.last_error, "dual", "single", "fp32")
        for room in ("room_activation", "room_error", "room_gradient"):
            if not isinstance(getattr(self, room), int) or getattr(self, room) < 0:
                raise ValueError(f"{room}={getattr(self, room)!r}: give octaves of headroom, 0 or more")
        if isinstance(self.rules, str) or not isinstance(self.rules, Sequence):
            raise ValueError(f"rules={self.rules!r} is not a list of rules")
        for rule in self.rules:
            if not isinstance(rule, Mapping):
                raise ValueError(f"the rule {rule!r} is not a mapping: write {{pattern: 'layer4.*', error: fp152}}")
            if "pattern" not in rule or set(rule) - {"pattern", "activation", "error", "gradient"}:
                raise ValueError(
                    f"a rule has a pattern and any of activation, error, gradient; got {dict(rule)}: "
                    "write for example {pattern: 'layer4.*', error: fp152}"
                )
            for kind in set(rule) - {"pattern"}:
                formats.get(rule[kind])

    def format_of(self, kind: str, name: str) -> Format:
        """The format of `kind` ("activation", "error", "gradient") at the module called `name`."""
        spec = getattr(self, kind)
        for rule in self.rules:
            if kind in rule and fnmatch.fnmatchcase(name, rule["pattern"]):
                spec = rule[kind]
        return formats.get(spec)


def _choice(key: str, got: str, *valid: str) -> None:
    if got not in valid:
        raise ValueError(f"{key}={got!r} is not one of {', '.join(valid)}")


class Flow:
    """The handle that `attach_` returns."""

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
        if _HANDLE in self.model.__dict__:
            del self.model.__dict__[_HANDLE]

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

    def report(self, example: Any = None) -> Any:
        """What each module got, what was left out and why; its `str` is a table.

        Args:
            example: an input (or tuple of inputs) of the model. With it the forward pass is run once and the
                share of multiply-accumulates that work on quantized operands is measured.
        """
        from .coverage import Report  # the audit costs an import that training does not need

        return Report(self, example)

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
        return Quantizer(format, room, flow.scaling == "tracked", self.mode, key, dual)

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


_HANDLE = "_lpt_flow"


def attach_(model: nn.Module, flow: DataFlow | None = None) -> Flow:
    """Quantize the data flow of `model`, in place, by hooks; parameters, names and the state dict stay as they are.

    Args:
        model: any nn.Module, before it is wrapped for distribution or compilation.
        flow: formats and scales; FP134 for A, E and G if not given.

    Raises:
        ValueError: no module; one that has Edges already; a rule or `last` that matches nothing.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"attach_ takes an nn.Module, got a {type(model).__name__}")
    if flow is not None and not isinstance(flow, DataFlow):
        raise ValueError(f"attach_ takes a DataFlow, got {flow!r}: write lpt.DataFlow(activation=..., error=..., ...)")
    if _HANDLE in model.__dict__:
        raise ValueError("this model's data flow is quantized already; call remove() on its handle first")
    handle = Flow(model, flow or DataFlow())
    model.__dict__[_HANDLE] = handle
    return handle


def _rank() -> int:
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if initialized else 0
