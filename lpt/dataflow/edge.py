"""An Edge: what stands behind a module that makes new values, and rounds them and their gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from .places import Arguments, Path, floats_in, mapped, name_of, refuse_nested
from .quantizer import Mode, Quantizer


class _Quantize(torch.autograd.Function):
    """The identity that rounds: A forward, E backward. Its own gradient is passed straight through, at any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Quantizer | None, error: Quantizer | None, training: bool) -> Tensor:
        ctx.error, ctx.training = error, training
        return x.clone() if activation is None else activation(x, training)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        if ctx.error is not None:
            if torch.is_grad_enabled():
                grad = straight_through(grad, ctx.error, None, ctx.training)  # differentiable once more
            else:
                if not torch.compiler.is_compiling() and torch._C._functorch.is_legacy_batchedtensor(grad):
                    raise RuntimeError(
                        "errors are rounded as whole tensors, which is_grads_batched=True and vectorize=True do not "
                        "allow: use torch.func (jacrev, hessian, vmap) or a loop"
                    )
                grad = ctx.error(grad, ctx.training)
        return grad, None, None, None


class _Transformed(torch.autograd.Function):
    """The same for torch.func and forward-mode derivatives; apart, since torch binds its arguments slowly."""

    @staticmethod
    def forward(x: Tensor, activation: Quantizer | None, error: Quantizer | None, training: bool) -> Tensor:  # type: ignore[override]
        return x.clone() if activation is None else activation(x, training)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _, _, ctx.error, ctx.training = inputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        return (grad if ctx.error is None else straight_through(grad, ctx.error, None, ctx.training)), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        return tangent.clone()

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, *rest: Any) -> tuple[Tensor, int]:  # type: ignore[override]
        """All that is mapped over is one tensor, as it would be in a batch."""
        return straight_through(x, *rest), in_dims[0]


def straight_through(x: Tensor, activation: Quantizer | None, error: Quantizer | None, training: bool) -> Tensor:
    """x rounded by `activation`; its gradient rounded by `error`. None leaves them as they are."""
    if not torch.compiler.is_compiling() and (
        torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    ):
        return _Transformed.apply(x, activation, error, training)
    return _Quantize.apply(x, activation, error, training)


class Maker(Protocol):
    """Makes a place's quantizers of A and E, either of which may be None."""

    def __call__(self, place: str) -> tuple[Quantizer | None, Quantizer | None]: ...


class Edge:
    """The forward hook behind one module: quantizes its output's values (A) and their gradients (E).

    Each of several outputs has quantizers of its own, made at first sight; those of the first are there at once.
    """

    def __init__(self, name: str, root: nn.Module, mode: Mode, make: Maker, waits: bool = False) -> None:
        self.name = name
        self.root = root
        self.mode = mode
        self.ran = False
        self.blind = ""  # the type of what it returned in which no tensor was found
        self.waits = waits  # until it has run, it does not count
        self.exchange(make)

    def exchange(self, make: Maker) -> None:
        """Take quantizers from `make` from now on."""
        self.mode.changes += 1
        self.make = make
        self.activation, self.error = make("")
        self.others: dict[str, tuple[Quantizer | None, Quantizer | None]] = {}

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        mode = self.mode
        if not mode.on:
            return output if mode.tracer is None else mode.tracer.edge(self.name, output)
        if not self.ran:
            self.ran = True
            mode.changes += 1
        if isinstance(output, Tensor):
            return self._first(output)
        return mapped(output, self._placed, other=self._other)

    def _other(self, value: Any, needed: bool) -> Any:
        """What is returned and is none of the containers whose tensors can be replaced."""
        kind = type(value).__name__
        if self.activation is None and self.error is None:
            return value
        if needed or any(True for _ in floats_in(value)):
            raise ValueError(
                f"{self.name or 'the model'} returns a {kind}, whose tensors cannot be replaced by rounded ones: let "
                "it return tensors, or tuples, lists, dicts or dataclasses of them, or leave it alone by a rule with "
                "activation: fp32 and error: fp32"
            )
        if not self.blind:
            self.blind = kind
            warnings.warn(
                f"{self.name or 'the model'} returns a {kind}, in which no tensor was found to round", stacklevel=2
            )
        return value

    def _first(self, x: Tensor) -> Tensor:
        activation, error = self.activation, self.error
        if (activation is None and error is None) or not x.is_floating_point():
            return x
        if x.is_nested:
            refuse_nested(x, f"what {self.name or 'the model'} returns")
        return straight_through(x, activation, error, self.root.training)

    def _placed(self, x: Tensor, path: Path) -> Tensor:
        place = name_of(path)
        if not place or not x.is_floating_point():
            return self._first(x)
        activation, error = self.at(place)
        if activation is None and error is None:
            return x
        return straight_through(x, activation, error, self.root.training)

    def at(self, place: str) -> tuple[Quantizer | None, Quantizer | None]:
        """The quantizers of one place; made if there are none yet."""
        if place not in self.others:
            self.mode.changes += 1
            self.others[place] = self.make(place)
        return self.others[place]

    def quantizers(self) -> dict[str, Quantizer]:
        """Those of the first place."""
        both = {"activation": self.activation, "error": self.error}
        return {kind: q for kind, q in both.items() if q is not None}

    def everywhere(self) -> dict[str, dict[str, Quantizer]]:
        """The quantizers of every place so far, by the place's full name."""
        found = {self.name: self.quantizers()}
        for place, (activation, error) in self.others.items():
            both = {"activation": activation, "error": error}
            found[self.name + place] = {kind: q for kind, q in both.items() if q is not None}
        return found


class InputEdge(Edge):
    """The forward pre-hook on the whole model: quantizes those of its arguments that are activations.

    Args:
        look: is called before the first pass in training and in evaluation, after an Edge ran that no look saw, and
            when there is an argument that `chosen` does not know; sets `looked`.
    """

    def __init__(self, name: str, root: nn.Module, mode: Mode, make: Maker, look: Callable[[Any, Any], None]) -> None:
        super().__init__(name, root, mode, make)
        self.look = look
        self.arguments = Arguments(root)
        self.looked = False
        self.modes: set[bool] = set()  # whether the model trained when it was looked at
        self.unseen: list[Edge] = []  # Edges that have not run while it was looked at
        self.met: set[str] = set()  # places where there was a tensor that can be an activation
        self.chosen: dict[str, str] = {"": ""}  # place of an argument -> why it is left alone, "" if it is quantized

    def __call__(self, module: nn.Module, args: Any, kwargs: Any = None) -> Any:  # type: ignore[override]
        if not self.mode.on:
            return None
        kwargs = kwargs or {}
        if self._due() or self._unknown(args, kwargs):
            self.look(args, kwargs)
        self.ran = True
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            return (self._placed(args[0], ()),), kwargs
        return self.arguments.mapped(args, kwargs, self._placed)

    def _placed(self, x: Tensor, path: Path) -> Tensor:
        if not is_value(x) or self.chosen.get(name_of(path), "?"):
            return x
        return super()._placed(x, path)

    def _due(self) -> bool:
        """The model may take a way that it did not take when it was looked at."""
        if self.root.training not in self.modes:
            return True
        return any(edge.ran for edge in self.unseen)

    def _unknown(self, args: Any, kwargs: Any) -> bool:
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            return False  # the first place, looked at with the first pass
        found = False

        def see(x: Tensor, path: Path) -> Tensor:
            nonlocal found
            found = found or (is_value(x) and name_of(path) not in self.chosen)
            return x

        self.arguments.mapped(args, kwargs, see)
        return found


def is_value(x: Tensor) -> bool:
    """Not an integer, a truth value, a complex or a sparse tensor: something that can be an activation.

    Raises:
        ValueError: a nested tensor.
    """
    refuse_nested(x, "an argument of the model")
    return x.is_floating_point() and x.layout == torch.strided
