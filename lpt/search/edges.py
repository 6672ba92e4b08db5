"""Edges whose format can be exchanged at any time, and the activations' share of a weight gradient by linearity."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..dataflow import DataFlow, attach_
from ..dataflow.quantizer import Mode, Quantizer
from ..dataflow.roles import PRODUCTS
from ..formats import Format
from .operands import Use, is_linear, rows_of, weight_gradient


class Edges:
    """The Edges of a model, and what its products multiplied in the pass in full precision.

    Args:
        model: any nn.Module.
        weights: those whose gradient is looked at.
        forward: whether A is to be rounded in forward passes.
        local: whether what products multiply is to be seen.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], forward: bool, local: bool) -> None:
        self.weights, self.errors, self.activations = weights, Choice(), Choice()
        flow = attach_(model, DataFlow(gradient="fp32", scaling="current", input="dual" if forward else "fp32"))
        self.names = list(flow.edges)
        self._mode, self._forward = flow.mode, forward
        self._handles: list[Any] = [flow]
        self._uses: list[Use] = []
        self._inputs: set[int] = set()
        flow.exchange(self._rounder)
        if local:
            self._see(model)

    def remove(self) -> None:
        """The model as it was."""
        for handle in self._handles:
            handle.remove()
        self.forget()

    def forget(self) -> None:
        """What was seen of a batch."""
        self._uses.clear()
        self._inputs.clear()

    @torch.no_grad()
    def changes(self, format: Format) -> dict[str, Tensor]:
        """By how much `format`, in the A of G = A^T E alone, changes weights' gradients: (round(A) - A)^T E."""
        changes: dict[str, Tensor] = {}
        rounded: dict[int, Tensor] = {}  # one tensor may enter several products
        for use in self._uses:
            if use.error is not None:
                if id(use.operand) not in rounded:
                    quantizer = self.activations.quantizer(format, use.dual)
                    rounded[id(use.operand)] = quantizer(use.operand, False) - use.operand
                if use.weight not in changes:
                    changes[use.weight] = self.weights[use.weight].detach().new_zeros(self.weights[use.weight].shape)
                changes[use.weight][use.rows] += weight_gradient(use.module, rounded[id(use.operand)], use.error)
        return changes

    @property
    def looking(self) -> bool:
        """Whether this pass is none of a batch: the model is only looked at, for what its parts are."""
        return self._mode.tracer is not None

    # -- inside ------------------------------------------------------------------------------------------------

    def _rounder(self, kind: str, dual: bool) -> Callable[[Tensor, bool], Tensor] | None:
        """What stands in an Edge for a quantizer."""
        if kind == "error":
            return self.errors.rounder(dual)
        return self.activations.rounder(dual) if self._forward else None

    def _see(self, model: nn.Module) -> None:
        self._handles.append(model.register_forward_pre_hook(self._see_input, with_kwargs=True))
        names = {id(p): name for name, p in self.weights.items()}
        for module in model.modules():
            if isinstance(module, PRODUCTS) and id(module.weight) in names:
                self._handles.append(module.register_forward_hook(self._see_use(names[id(module.weight)])))
            elif is_linear(module):
                self._handles.append(module.register_forward_hook(self._see_handed, with_kwargs=True))

    def _see_input(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        leaves = pytree.tree_leaves((args, kwargs))
        self._inputs = {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, Tensor)}

    def _see_handed(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        """A product that is handed its weight: which one is it?"""
        if self.looking or not self._sees:
            return
        handed = args[1] if len(args) > 1 else kwargs["weight"]
        for name, weight in self.weights.items():
            rows = rows_of(handed, weight)
            if rows is not None:
                self._see_use(name, rows)(module, args, output)

    @property
    def _sees(self) -> bool:
        return self.activations.format is None and not self.blind

    blind = False  # while another pass than the one in full precision runs

    def _see_use(self, weight: str, rows: slice = slice(None)) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if self.looking or not self._sees:
                return
            operand = args[0].detach()
            dual = operand.untyped_storage().data_ptr() in self._inputs
            same = [use.operand for use in self._uses if use.operand.data_ptr() == operand.data_ptr()]
            same = [other for other in same if other.shape == operand.shape and other.stride() == operand.stride()]
            use = Use(weight, module, same[0] if same else operand, dual, rows)
            self._uses.append(use)

            def keep(grad: Tensor) -> None:
                if use.error is None:
                    use.error = grad

            if output.requires_grad:
                output.register_hook(keep)

        return hook


class Choice:
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
    def set(self, format: Format | None) -> Iterator[None]:
        self.format = format
        try:
            yield
        finally:
            self.format = None


def sum_of(gradients: Sequence[Tensor], names: Sequence[str], changes: Mapping[str, Tensor]) -> list[Tensor]:
    """Gradients of the weights called `names`, with those changes that there are."""
    return [g + changes[n] if n in changes else g for n, g in zip(names, gradients, strict=True)]
