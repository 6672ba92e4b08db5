"""Weights that are computed from other trained tensors: powers of two, of a trained shift and a trained sign."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization
from torch.optim.optimizer import register_optimizer_step_post_hook

from .parameters import chosen


@dataclass(frozen=True)
class ShiftAndSign:
    """w = 2^round(P) sgn(round(S)); P and S train in the place of w (DeepShift-PS, arXiv 1905.13298).

    Straight-through: dP = dw w ln 2 and dS = dw. P stays within [-(2^(bits - 1) - 2), 0], clamped in place after each
    step of an optimizer, so that w has the levels of `log4` (4 bits) at scale 0. They begin uniformly: P over that
    range, S from -1 to 1, of which half are rounded to 0.

    Args:
        bits: of a weight, its sign included; 3 or more.
        skip: globs of parameter names to leave as they are.

    Raises:
        ValueError: fewer bits.
    """

    bits: int = 4
    skip: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 3 <= self.bits <= 8:
            raise ValueError(f"bits={self.bits!r}: give a whole number from 3 to 8")

    @property
    def least(self) -> int:
        """The smallest shift."""
        return 2 - 2 ** (self.bits - 1)

    def attach_(self, model: nn.Module) -> None:
        """Parametrize the weights of products (`torch.nn.utils.parametrize`), drawing from torch's generator.

        `NAME.weight` becomes `NAME.parametrizations.weight.original0`, the shift, and `original1`, the sign. Embeddings
        stay as they are, unless one is tied to a product's weight: tied weights stay tied.

        Raises:
            ValueError: there is no weight, or a pattern of `skip` matches none.
        """
        homes: dict[int, list[tuple[nn.Module, str]]] = {}
        wanted = {id(p) for p in chosen(model, self.skip).values()}
        for module in model.modules():
            for name, p in module._parameters.items():
                if id(p) in wanted:
                    homes.setdefault(id(p), []).append((module, name))
        homes = {i: own for i, own in homes.items() if not all(isinstance(m, nn.Embedding) for m, _ in own)}
        if not homes:
            raise ValueError("there is no weight of a product that shifts and signs could take the place of")
        for own in homes.values():
            like: Tensor = getattr(*own[0]).detach()
            shift = Shift(torch.empty_like(like).uniform_(self.least, 0))
            sign = nn.Parameter(torch.empty_like(like).uniform_(-1, 1))
            shift.least = self.least
            for module, name in own:
                register_parametrization(module, name, _Shifted(self.least))
                parts: Any = module.parametrizations[name]  # type: ignore[index]
                parts.original0, parts.original1 = shift, sign
        _hook_all_optimizers()


class Shift(nn.Parameter):
    """P, which every optimizer's step leaves within its range."""

    least = -6

    def __deepcopy__(self, memo: dict[int, Any]) -> Shift:
        if id(self) not in memo:
            other = Shift(self.data.clone(memory_format=torch.preserve_format), self.requires_grad)
            other.least = self.least
            memo[id(self)] = other
        found: Shift = memo[id(self)]
        return found


@functools.cache
def _hook_all_optimizers() -> None:
    register_optimizer_step_post_hook(_clamp)  # type: ignore[arg-type]


def _clamp(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with torch.no_grad():
        for group in optimizer.param_groups:
            for p in group["params"]:
                if isinstance(p, Shift):
                    p.clamp_(p.least, 0)


class _Shifted(nn.Module):
    """shift, sign -> weight."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least

    def forward(self, shift: Tensor, sign: Tensor) -> Tensor:
        w: Tensor = _Power.apply(shift, sign, self.least)
        return w

    def right_inverse(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The shift and the sign of the nearest weight there is, but for 0 from a logarithm's point of view."""
        return w.abs().clamp(min=2.0**self.least, max=1.0).log2(), w.sign()


class _Power(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shift: Tensor, sign: Tensor, least: int) -> Tensor:
        w = torch.ldexp(sign.round().sign(), shift.clamp(least, 0).round().int())
        ctx.save_for_backward(w)
        return w

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        (w,) = ctx.saved_tensors
        return g * w * math.log(2), g, None
