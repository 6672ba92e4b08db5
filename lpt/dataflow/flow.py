"""Data-flow quantization: activations A, errors E and weight gradients G of a model (the paper's section 3).

W weights, A activations, E errors (dL/dA), G weight gradients. An *Edge* stands behind every module that makes new
values; it rounds A on the way forward and E on the way back, so that every operand of every product is on a grid.
G is rounded on `p.grad`, in `Flow.step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..weights.parameters import quantizable
from .calls import begins, ends, forget, watch
from .changes import ADVICE, Structure
from .edge import Edge
from .looking import NEVER_CALLED
from .placing import INPUT, Placing
from .quantizer import Mode, Quantizer
from .saving import load, parts
from .scales import Scales
from .spec import DataFlow

__all__ = ["HANDLE", "INPUT", "Flow"]
HANDLE = "_lpt_flow"  # where a model keeps its handle


class Flow:
    """The hooks on one model, their scales, and what a training loop calls; made by `attach_`.

    The first forward pass in training, and in evaluation, is preceded by one without quantization, which shows what the
    network returns and which arguments enter products (`lpt/dataflow/tracing.py`); so is the next one after a module
    ran that none of them saw. A product is last if it is last in every such pass in which it ran. Parameters, buffers,
    attributes of modules and random numbers stay as they are; iterators, files, what objects of one's own hold, and
    what hooks of one's own do, are used once more, since nobody can put them back.
    """

    def __init__(self, model: nn.Module, flow: DataFlow) -> None:
        self.model = model
        self.flow = flow
        self.mode = Mode()
        self.gradients: dict[str, Quantizer] = {}
        self.placing = Placing(model, flow, self.mode)
        weights = quantizable(model)
        for name in weights:
            if (quantizer := self.placing.quantizer("gradient", name)) is not None:
                self.gradients[name] = quantizer
        self._weights = {name: weights[name] for name in self.gradients}
        self._structure = Structure(model)
        self._found: tuple[int, dict[str, Quantizer]] | None = None  # all quantizers, and mode.changes at the time
        self._scales: tuple[dict[str, Quantizer], Scales] | None = None
        self.stepped = False  # from then on, a report changes nothing
        watch(self)

    @property
    def edges(self) -> dict[str, Edge]:
        """The Edges that round something, by module name; `INPUT` is in front of the model."""
        return self.placing.edges

    @property
    def left_out(self) -> dict[str, str]:
        """Module name -> why it has no Edge."""
        return self.placing.left_out

    # -- in the training loop -----------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self) -> None:
        """Round G in place on every weight's `.grad`, then move the tracked scales of A, E and G.

        Call once per optimizer step: after backward, accumulation and all-reduce, before clipping and the step.

        Raises:
            ValueError: the model's modules or parameters are not those of `attach_`; parts of the model ran, but the
                model itself was never called, so that its input and last products are not known.
        """
        self.check()
        if self.placing.never_called():
            raise ValueError(NEVER_CALLED)
        self.stepped = True
        begins(self, (p.grad for p in self._weights.values()))
        for name, quantizer in self.gradients.items():
            p = self._weights[name]
            if p.grad is not None and p.grad.layout == torch.strided:
                quantizer.write(p.grad)
            elif p.grad is not None:
                p.grad = _rounded(name, quantizer, p.grad)
        parts = self._parts()
        if self._scales is None or self._scales[0] is not parts or not self._scales[1].whole():
            self._scales = parts, Scales(parts.values())
        self._scales[1].move(self.mode.kernels)
        ends(self, (p.grad for p in self._weights.values()))

    def changed(self) -> str:
        """What of the model is no longer what it was at `attach_`; "" if nothing."""
        return self._structure.changed()

    def check(self) -> None:
        """Raise a ValueError if the model has changed since `attach_`."""
        if change := self.changed():
            raise ValueError(f"the model changed after attach_: {change}; {ADVICE}")

    @torch.no_grad()
    def quantize_gradients(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients by parameter name, rounded as `step` would round them; nothing is observed or moved."""
        with self.probe():
            return {n: _rounded(n, self.gradients[n], g) if n in self.gradients else g for n, g in gradients.items()}

    @property
    def started(self) -> bool:
        """Whether every tracked scale that the last step could set is set; a compiled model changes then."""
        return not any(q.tracked and q.steps == 0 and not q.started for q in self._parts().values())

    @property
    def ran(self) -> bool:
        """Whether something was observed that a step would act on: the model trained with tracked scales, or has G."""
        return bool(self.gradients) or any(q.tracked and q.started for q in self._parts().values())

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within: A and E pass unchanged, and nothing is observed."""
        with self.mode.switched(on=False):
            yield

    @contextmanager
    def probe(self) -> Iterator[None]:
        """Within: A and E are rounded with the scales as they are; nothing is observed, nothing moves."""
        with self.mode.switched(observing=False):
            yield

    @contextmanager
    def measure(self) -> Iterator[Callable[[], dict[str, dict[str, float]]]]:
        """Within, count; what it yields, called, gives per Edge the shares of elements that saturated and underflowed.

        Keys are "activation/saturation", "activation/underflow", "error/...", and the numbers of nans and of
        infinities, "nan" and "infinite". Infinities do not saturate: they stay.
        """
        for quantizer in self._parts().values():
            quantizer.counts = None
        with self.mode.switched(counting=True):
            yield self._counted

    def remove(self) -> None:
        """Take every hook off; the model computes as it did before `attach_`."""
        self.placing.remove()
        forget(self)
        if HANDLE in self.model.__dict__:
            del self.model.__dict__[HANDLE]

    def exchange(self, make: Callable[[str, bool], Any]) -> None:
        """Put make(kind, dual?) in the place of every quantizer of A ("activation") and E ("error"), now and later.

        What it returns is called with a tensor and whether the model trains, and returns a new one; or it is None.
        """
        self.placing.exchange(make)

    # -- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Tracked scales and the keys of stochastic rounding, by quantizer name."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: the state is of a model with other edges.
        """
        load(self.placing, self.gradients, state)

    def _parts(self) -> dict[str, Quantizer]:
        if self._found is None or self._found[0] != self.mode.changes:
            self._found = self.mode.changes, parts(self.placing, self.gradients)
        return self._found[1]

    def _counted(self) -> dict[str, dict[str, float]]:
        shares: dict[str, dict[str, float]] = {}
        for edge in self.edges.values():
            for name, quantizers in edge.everywhere().items():
                for kind, q in quantizers.items():
                    if q.counts is not None:
                        elements, saturated, underflowed, nan, infinite = q.counts.tolist()
                        own = shares.setdefault(name, {"nan": 0, "infinite": 0})
                        own[f"{kind}/saturation"] = saturated / max(1, elements)
                        own[f"{kind}/underflow"] = underflowed / max(1, elements)
                        own["nan"] += nan
                        own["infinite"] += infinite
        return shares


def _rounded(name: str, quantizer: Quantizer, grad: Tensor) -> Tensor:
    """A gradient rounded; of a sparse one its values, since the others are zero."""
    if grad.layout == torch.strided:
        return quantizer(grad, True)
    if grad.layout != torch.sparse_coo:
        raise ValueError(
            f"the gradient of {name!r} is {grad.layout}: G is rounded on dense and on sparse_coo gradients; make it "
            "one of these before step(), or leave it alone by a rule with gradient: fp32"
        )
    grad = grad.coalesce()  # an index that comes twice has the sum as its gradient
    return torch.sparse_coo_tensor(
        grad.indices(), quantizer(grad.values(), True), grad.shape, is_coalesced=True, check_invariants=False
    )
