"""How far a format turns the weight gradient of one mini-batch: the paper's two indicators, without training.

A activations, E errors (dL/dA), G weight gradients, as in `lpt/dataflow`; the same Edges at the same places. The
forward pass in full precision is run once a batch and shared by all formats:

    error       E rounded at every Edge on one more way back through the same graph
    activation  "local": forward and errors stay as they are, only the A in G = A^T E is rounded. G is linear in A,
                so that round(A) changes it by (round(A) - A)^T E: no forward, no way back
                "propagated": forward again with A rounded at every Edge, errors as they are
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..dataflow import DataFlow, attach_
from ..dataflow.quantizer import Mode, Quantizer
from ..dataflow.roles import HIDES_PRODUCTS, PRODUCTS
from ..dataflow.switching import products_off
from ..formats import Format
from ..indicators import angle
from ..weights.parameters import quantizable
from .operands import Use, is_linear, rows_of, weight_gradient

ORTHOGONAL = 90.0  # the angle of a gradient that a format has turned to nothing: no longer a direction of descent
ACTIVATIONS = ("local", "propagated")


@dataclass(frozen=True)
class Angles:
    """Degrees, 0 to 180; `error_layers` and `activation_layers` by weight, in the order of `Probe.weights`.

    A layer's angle is nan where its own gradient is zero.
    """

    error: float
    activation: float
    error_layers: tuple[float, ...] = ()
    activation_layers: tuple[float, ...] = ()


Measure = Callable[..., Angles]


class Probe:
    """`model` in evaluation mode, with Edges whose format can be exchanged at any time.

    To be used as a context; the model is as before at its end.

    Args:
        model: any nn.Module; residual sums and the like as modules, for Edges to be behind them.
        compute: from a batch to its loss (0-dim), by way of `model`.
        activation: "local" or "propagated".
    """

    def __init__(self, model: nn.Module, compute: Callable[[Any], Tensor], activation: str = "local") -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is not one of {', '.join(ACTIVATIONS)}")
        self.model, self.compute = model, compute
        self.local = activation == "local"
        self.weights = {name: p for name, p in quantizable(model).items() if p.requires_grad}
        if not self.weights:
            raise ValueError(
                f"{type(model).__name__} has no weight that requires a gradient: the angle is that of the gradient of "
                "all weights of products and embeddings (parameters called weight or ..._weight, of two dimensions or "
                "more); unfreeze them with requires_grad_()"
            )
        self.hidden: dict[str, str] = {}  # modules whose products cannot be reached, with their kinds
        self.edges: list[str] = []
        self._errors, self._activations = _Choice(), _Choice()
        self._uses: list[Use] = []
        self._inputs: set[int] = set()

    def __enter__(self) -> Probe:
        model = self.model
        self._training = {module: module.training for module in model.modules()}
        model.eval()
        self._around = ExitStack()  # (angles are of formats in Edges alone, so products round nothing meanwhile)
        self._around.enter_context(torch.compiler.set_stance("force_eager"))
        self._around.enter_context(products_off(model))
        flow = attach_(model, DataFlow(gradient="fp32", scaling="current", input="fp32" if self.local else "dual"))
        self.edges = list(flow.edges)
        self._mode = flow.mode
        self._handles: list[Any] = [flow]
        try:
            self._see_only_what_is_rounded()
        except ValueError:
            self.__exit__()
            raise
        flow.exchange(self._rounder)
        if self.local:
            self._handles.append(model.register_forward_pre_hook(self._see_input, with_kwargs=True))
            names = {id(p): name for name, p in self.weights.items()}
            for module in model.modules():
                if isinstance(module, PRODUCTS) and id(module.weight) in names:
                    self._handles.append(module.register_forward_hook(self._see_use(names[id(module.weight)])))
                elif is_linear(module):
                    self._handles.append(module.register_forward_hook(self._see_handed, with_kwargs=True))
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()
        self._around.close()
        for module, training in self._training.items():
            module.training = training
        self._uses.clear()

    def at(self, batch: Any) -> Measure:
        """Run `batch` forward and back in full precision; returns (format, per layer?) -> angles on this batch.

        What it returns is good until the next call.

        Raises:
            ValueError: the loss is not one finite number, or gives no gradient.
        """
        self._uses.clear()
        self._inputs.clear()
        loss = self._loss(batch)
        reference = self._gradients(loss)
        angle(reference, reference)  # tells of a gradient that is zero or not finite

        def angles(format: Format, per_layer: bool = False) -> Angles:
            with self._errors.set(format):
                error = self._gradients(loss)
            activation = self._local(reference, format) if self.local else self._propagated(batch, format)
            layers = [_layers(g, reference) for g in (error, activation)] if per_layer else []
            return Angles(_angle(error, reference), _angle(activation, reference), *layers)

        return angles

    # -- inside ------------------------------------------------------------------------------------------------

    def _rounder(self, kind: str, dual: bool) -> Callable[[Tensor, bool], Tensor] | None:
        """What stands in an Edge for a quantizer."""
        if kind == "error":
            return self._errors.rounder(dual)
        return None if self.local else self._activations.rounder(dual)

    def _see_only_what_is_rounded(self) -> None:
        """Take the weights whose products are hidden out of the angle: no format would turn their gradient."""
        self.hidden = {n: type(m).__name__ for n, m in self.model.named_modules() if isinstance(m, HIDES_PRODUCTS)}
        inside = tuple(f"{name}." if name else "" for name in self.hidden)
        self.weights = {name: weight for name, weight in self.weights.items() if not name.startswith(inside)}
        if not self.weights:
            kinds = ", ".join(sorted(set(self.hidden.values())))
            raise ValueError(
                f"nothing of {type(self.model).__name__} can be rounded: its products are inside {kinds}, out of "
                "reach; spell them out with modules (nn.Linear, lpt.ops; lpt.models has an LSTM and a Transformer)"
            )

    def _loss(self, batch: Any) -> Tensor:
        with torch.enable_grad():
            loss = self.compute(batch)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ValueError(f"the loss of a batch must be one number, got {got}: take the mean over the batch")
        if not loss.requires_grad:
            raise ValueError("the model gives no gradient: its loss does not depend on weights through autograd")
        if self._activations.format is None and not bool(loss.isfinite()):
            raise ValueError(f"the loss of a batch is {loss.item()}: check the checkpoint and the data")
        return loss

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        weights = list(self.weights.values())
        grads = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        # An embedding's may be sparse: the angle is over all of its elements.
        return [torch.zeros_like(w) if g is None else g.to_dense() for w, g in zip(weights, grads, strict=True)]

    def _local(self, reference: list[Tensor], format: Format) -> list[Tensor]:
        changes: dict[str, Tensor] = {}
        rounded: dict[int, Tensor] = {}  # one tensor may enter several products
        for use in self._uses:
            if use.error is not None:
                if id(use.operand) not in rounded:
                    quantizer = self._activations.quantizer(format, use.dual)
                    rounded[id(use.operand)] = quantizer(use.operand, False) - use.operand
                if use.weight not in changes:
                    changes[use.weight] = torch.zeros_like(self.weights[use.weight])
                changes[use.weight][use.rows] += weight_gradient(use.module, rounded[id(use.operand)], use.error)
        return [g + changes[n] if n in changes else g for n, g in zip(self.weights, reference, strict=True)]

    def _propagated(self, batch: Any, format: Format) -> list[Tensor]:
        with self._activations.set(format):
            return self._gradients(self._loss(batch))

    def _see_input(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        leaves = pytree.tree_leaves((args, kwargs))
        self._inputs = {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, Tensor)}

    def _see_handed(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        """A product that is handed its weight: which one is it?"""
        if self._mode.tracer is not None:
            return
        handed = args[1] if len(args) > 1 else kwargs["weight"]
        for name, weight in self.weights.items():
            rows = rows_of(handed, weight)
            if rows is not None:
                self._see_use(name, rows)(module, args, output)

    def _see_use(self, weight: str, rows: slice = slice(None)) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if self._mode.tracer is not None:  # the model is only looked at
                return
            operand = args[0].detach()
            dual = operand.untyped_storage().data_ptr() in self._inputs
            same = [use.operand for use in self._uses if use.operand.data_ptr() == operand.data_ptr()]
            same = [other for other in same if other.shape == operand.shape and other.stride() == operand.stride()]
            use = Use(weight, module, same[0] if same else operand, dual, rows)
            self._uses.append(use)

            def keep(grad: Tensor) -> None:
                if self._errors.format is None:
                    use.error = grad

            if output.requires_grad:
                output.register_hook(keep)

        return hook


class _Choice:
    """The format of all Edges of one kind; None leaves their tensors alone."""

    def __init__(self) -> None:
        self.format: Format | None = None
        self._mode = Mode()
        # Of one format at a time: small tensors that stay, among large ones that come and go, make the heap grow.
        self._quantizers: dict[tuple[Format, bool], Quantizer] = {}

    def quantizer(self, format: Format, dual: bool) -> Quantizer:
        """Current scale, room 0, to nearest."""
        key = (format, dual)
        if key not in self._quantizers:
            if (format, not dual) not in self._quantizers:
                self._quantizers.clear()
            self._quantizers[key] = Quantizer(format, 0, False, self._mode, dual=dual)
        return self._quantizers[key]

    def rounder(self, dual: bool) -> Callable[[Tensor, bool], Tensor]:
        """What stands in an Edge for its quantizer."""

        def rounder(x: Tensor, training: bool) -> Tensor:
            return x.clone() if self.format is None else self.quantizer(self.format, dual)(x, False)

        return rounder

    @contextmanager
    def set(self, format: Format) -> Iterator[None]:
        self.format = format
        try:
            yield
        finally:
            self.format = None


def _angle(g: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    try:
        return angle(g, reference).item()
    except ValueError:
        return ORTHOGONAL


def _layers(g: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[float, ...]:
    return tuple(_angle([a], [b]) if bool(b.any()) else float("nan") for a, b in zip(g, reference, strict=True))
