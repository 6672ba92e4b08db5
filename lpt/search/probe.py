"""How far a candidate turns the weight gradient of one mini-batch: the paper's two indicators, without training.

A activations, E errors (dL/dA), G weight gradients, as in `lpt/dataflow`; the same Edges and products at the same
places. The forward pass in full precision is run once a batch and shared by all candidates:

    error       E rounded at every Edge on one more way back through the same graph; of products, the slots dgrad_e,
                dgrad_w and wgrad_e
    activation  "local": forward and errors stay as they are, only the A in G = A^T E is rounded (of products, the slot
                wgrad_x). G is linear in A, so that round(A) changes it by (round(A) - A)^T E: no forward, no way back
                "propagated": forward again with A rounded at every Edge, errors as they are; of products, the slots x,
                w and wgrad_x
    whole       forward and back with all of it rounded, as training has it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..dataflow.roles import HIDES_PRODUCTS
from ..dataflow.slots import SLOTS
from ..dataflow.switching import products_off
from ..formats import Format
from ..indicators import angle
from ..weights.parameters import quantizable
from .candidates import Candidate
from .edges import Edges, sum_of
from .sites import ERRORS, Sites

ORTHOGONAL = 90.0  # the angle of a gradient that a format has turned to nothing: no longer a direction of descent
ACTIVATIONS = ("local", "propagated")
PROPAGATED = ("x", "w", "wgrad_x")


@dataclass(frozen=True)
class Angles:
    """Degrees, 0 to 180; `error_layers` and `activation_layers` by weight, in the order of `Probe.weights`.

    A layer's angle is nan where its own gradient is zero. `whole` is None where it was not asked for.
    """

    error: float
    activation: float
    error_layers: tuple[float, ...] = ()
    activation_layers: tuple[float, ...] = ()
    whole: float | None = None


Measure = Callable[..., Angles]


class Probe:
    """`model` in evaluation mode, with Edges and products whose rounding can be exchanged at any time.

    To be used as a context; the model is as before at its end.

    Args:
        model: any nn.Module; residual sums and the like as modules, for Edges to be behind them.
        compute: from a batch to its loss (0-dim), by way of `model`.
        activation: "local" or "propagated".
        candidates: those of which products are rounded, if there are any.
        whole: whether `gradient` will be asked for.

    Raises:
        ValueError: another activation, no weights; on entering, nothing that can be rounded, or a candidate that does
            not fit the model.
    """

    def __init__(
        self, model: nn.Module, compute: Callable[[Any], Tensor], activation: str = "local",
        candidates: Sequence[Candidate] = (), whole: bool = False,
    ) -> None:  # fmt: skip
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is not one of {', '.join(ACTIVATIONS)}")
        self.model, self.compute = model, compute
        self.local, self.whole = activation == "local", whole
        self.weights = {name: p for name, p in quantizable(model).items() if p.requires_grad}
        if not self.weights:
            raise ValueError(
                f"{type(model).__name__} has no weight that requires a gradient: the angle is that of the gradient of "
                "all weights of products and embeddings (parameters called weight or ..._weight, of two dimensions or "
                "more); unfreeze them with requires_grad_()"
            )
        self.hidden: dict[str, str] = {}  # modules whose products cannot be reached, with their kinds
        self.edges: list[str] = []
        self.sites: Sites | None = None
        self._candidates = [each for each in candidates if each.products is not None]

    def __enter__(self) -> Probe:
        model = self.model
        self._training = {module: module.training for module in model.modules()}
        model.eval()
        self._around = ExitStack()  # (products of the model's own round nothing meanwhile)
        self._around.enter_context(torch.compiler.set_stance("force_eager"))
        self._around.enter_context(products_off(model))
        try:
            self._see_only_what_is_rounded()
            self._edges = Edges(model, self.weights, self.whole or not self.local, self.local)
            self._around.callback(self._edges.remove)
            self.edges = self._edges.names
            if self._candidates:
                self.sites = Sites(model, self._candidates, self.weights)
                self._around.callback(self.sites.remove)
        except ValueError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self._around.close()
        for module, training in self._training.items():
            module.training = training

    def at(self, batch: Any) -> Measure:
        """Run `batch` forward and back in full precision; returns what measures a candidate, or a format, on it.

        That takes `per_layer`, `whole` and `draw`, which random bits, and is good until the next call.

        Raises:
            ValueError: the loss is not one finite number, or gives no gradient.
        """
        reference = self.reference(batch)

        def angles(given: Candidate | Format, per_layer: bool = False, whole: bool = False, draw: int = 0) -> Angles:
            each = Candidate(given.name, given, given) if isinstance(given, Format) else given
            error = self.rounded_errors(each, draw)
            activation = self._local(reference, each, draw) if self.local else self._propagated(batch, each, draw)
            layers = [_layers(g, reference) if per_layer else () for g in (error, activation)]
            full = angle_of(self.gradient(batch, each, draw), reference) if whole else None
            return Angles(angle_of(error, reference), angle_of(activation, reference), layers[0], layers[1], full)

        return angles

    def bits(self, each: Candidate) -> float:
        """Of an operand, the mean over the multiply-adds of the batch that was seen."""
        assert self.sites is not None
        return self.sites.bits(each)

    def reference(self, batch: Any) -> list[Tensor]:
        """The gradients of `weights` in full precision; what follows is measured against this batch's graph.

        Raises:
            ValueError: the loss is not one finite number, or gives no gradient.
        """
        self._edges.forget()
        with self.sites.recording(lambda: not self._edges.looking) if self.sites is not None else ExitStack():
            self._graph = self._loss(batch)
            if not bool(self._graph.isfinite()):
                raise ValueError(f"the loss of a batch is {self._graph.item()}: check the checkpoint and the data")
            found = self._gradients(self._graph, others=self.sites is not None)
        angle(found, found)  # tells of a gradient that is zero or not finite
        return found

    def rounded_errors(self, each: Candidate, draw: int = 0) -> list[Tensor]:
        """The gradients, errors rounded on the way back through the graph of `reference`."""
        with self._edges.errors.set(each.error):
            return self.passing_back(lambda: self._rounding(each, ERRORS, draw))

    def passing_back(self, rounding: Callable[[], Any]) -> list[Tensor]:
        """The gradients of one more way back through the graph of `reference`, within `rounding()`."""
        with rounding():
            return self._gradients(self._graph)

    def gradient(self, batch: Any, each: Candidate, draw: int = 0) -> list[Tensor]:
        """The gradients with all that `each` rounds, forward and back, as training has them."""
        with self._edges.errors.set(each.error), self._edges.activations.set(each.activation):
            return self.passing(batch, lambda: self._rounding(each, SLOTS, draw))

    def passing(self, batch: Any, rounding: Callable[[], Any]) -> list[Tensor]:
        """The gradients of one pass of its own, forward and back within `rounding()`."""
        self._edges.blind = True
        try:
            with rounding():
                return self._gradients(self._loss(batch), keep=False)
        finally:
            self._edges.blind = False

    # -- inside ------------------------------------------------------------------------------------------------

    def _rounding(self, each: Candidate, slots: Sequence[str], draw: int) -> Any:
        if self.sites is None:
            return ExitStack()
        return self.sites.rounding((each, slots), draw)

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
        return loss

    def _gradients(self, loss: Tensor, keep: bool = True, others: bool = False) -> list[Tensor]:
        """Of the weights; `others`: made with those of all parameters, so that all products of a training run."""
        weights = list(self.weights.values())
        more = [p for p in self.model.parameters() if p.requires_grad] if others else []
        grads = torch.autograd.grad(loss, [*weights, *more], retain_graph=keep, allow_unused=True)
        # An embedding's may be sparse: the angle is over all of its elements.
        return [torch.zeros_like(w) if g is None else g.to_dense() for w, g in zip(weights, grads, strict=False)]

    def _local(self, reference: list[Tensor], each: Candidate, draw: int) -> list[Tensor]:
        found = reference
        if each.activation is not None:
            found = sum_of(found, list(self.weights), self._edges.changes(each.activation))
        if self.sites is not None and each.products is not None:
            found = sum_of(found, list(self.weights), self.sites.changes((each, ("wgrad_x",)), draw))
        return found

    def _propagated(self, batch: Any, each: Candidate, draw: int) -> list[Tensor]:
        with self._edges.activations.set(each.activation):
            return self.passing(batch, lambda: self._rounding(each, PROPAGATED, draw))


def angle_of(g: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """In degrees; 90 where nothing is left of `g`."""
    try:
        return angle(g, reference).item()
    except ValueError:
        return ORTHOGONAL


def _layers(g: Sequence[Tensor], reference: Sequence[Tensor]) -> tuple[float, ...]:
    return tuple(angle_of([a], [b]) if bool(b.any()) else float("nan") for a, b in zip(g, reference, strict=True))
