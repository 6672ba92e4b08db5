"""What is done around an optimizer's step besides exchanging masters: decay by quantized weights, rounded momenta."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .keeping import Key, rounded_in_place, state_format
from .trials import MOMENTUM, check, check_momenta, check_momentum_use, check_state, decay_kind, momenta
from .weight import Weight

USES = ("quantized", "master", MOMENTUM, "exp_avg", "exp_avg_sq")  # of random bits that have keys of their own


class Besides:
    """Decay by the quantized weights and rounded momenta, as `QuantizedWeights` describes them."""

    def __init__(self, decay: str, momentum: str, momentum_use: str, gradient: str = "fp32") -> None:
        self.quantized_decay = decay == "quantized"
        self.format = state_format("momentum", momentum)
        self.gradient = state_format("gradient", gradient)
        self.rounds = momentum != "fp32"
        self.uses_rounded = momentum_use == "rounded"
        if self.uses_rounded and not self.rounds:
            raise ValueError("momentum_use='rounded' needs a momentum that is rounded: give momentum='fp169'")
        self._kinds: dict[int, int] = {}  # id of a parameter group -> kind of decay
        self._paused: list[tuple[dict[str, Any], float]] = []
        self._before: list[Tensor] = []

    def admit(self, optimizer: torch.optim.Optimizer, params: set[int]) -> None:
        """Find out how this optimizer treats decay and momenta; `params`: ids of the quantized parameters.

        Raises:
            ValueError: it cannot be used, or not with these choices.
        """
        check(optimizer)
        for group in optimizer.param_groups:
            own = [p for p in group["params"] if id(p) in params]
            if self.quantized_decay and group.get("weight_decay", 0) and group["params"]:
                self._kinds[id(group)] = decay_kind(optimizer, group, (own or group["params"])[0])
            for like in {p.ndim: p for p in own}.values() if self.rounds else ():
                check_momenta(optimizer, group, like)
                if self.uses_rounded:
                    check_momentum_use(optimizer, group, like)

    def before(self, optimizer: torch.optim.Optimizer, active: Sequence[Weight], key: Key) -> None:
        """The masters are in and the gradients ready: round these, decay, and put aside what `after` needs."""
        if self.gradient.name != "fp32":
            for w in active:
                assert w.param.grad is not None
                if w.param.grad.is_sparse:
                    raise ValueError(f"gradient={self.gradient.name} cannot round the sparse gradient of {w.name!r}")
                rounded_in_place(self.gradient, w, w.param.grad, key(w, "gradient"))
        for w in active:
            if w.quantized.dtype != w.master.dtype:
                _widen(optimizer.state.get(w.param, {}), w)
        if self.quantized_decay:
            self._decay(optimizer, {id(w.param): w for w in active})
        if self.uses_rounded:
            self._before = [w.master.clone() for w in active]

    def after(self, optimizer: torch.optim.Optimizer, active: Sequence[Weight], key: Key) -> None:
        """The optimizer has stepped and the quantized weights are back: round what it keeps of them.

        Raises:
            ValueError: it keeps something that cannot be rounded.
        """
        before, self._before = self._before, []
        if not self.rounds:
            return
        rates = {id(p): float(group["lr"]) for group in optimizer.param_groups for p in group["params"]}
        for i, w in enumerate(active):
            state = optimizer.state.get(w.param, {})
            check_state(optimizer, state, w.param)
            for name, momentum in momenta(state, w.param):
                rounded_in_place(self.format, w, momentum, key(w, name))
            if self.uses_rounded:
                w.master.copy_(before[i].add_(state[MOMENTUM], alpha=-rates[id(w.param)]))

    def end(self) -> None:
        """Once the step is over, or has failed: the optimizer's own decay goes on."""
        for group, decay in self._paused:
            group["weight_decay"] = decay
        self._paused = []

    def _decay(self, optimizer: torch.optim.Optimizer, active: dict[int, Weight]) -> None:
        """Decay by the quantized weights; the optimizer's own decay pauses."""
        decaying = [group for group in optimizer.param_groups if group.get("weight_decay", 0) and group["params"]]
        for group in decaying:
            if id(group) not in self._kinds:  # its decay was 0 when the optimizer was admitted
                self._kinds[id(group)] = decay_kind(optimizer, group, group["params"][0])
            _no_sparse(group, self._kinds[id(group)], active)
        for group in decaying:
            decay, kind = group["weight_decay"], self._kinds[id(group)]
            self._paused.append((group, decay))
            for p in group["params"]:
                if p.grad is None:
                    continue
                value = active[id(p)].quantized if id(p) in active else p.detach()
                if kind:
                    p.grad.add_(value, alpha=kind * decay)
                else:
                    p.data.sub_(value, alpha=float(group["lr"] * decay))
            group["weight_decay"] = 0


def check_moved(optimizer: torch.optim.Optimizer | None, active: Sequence[Weight]) -> None:
    """After the step, the quantized weights are back: see that it did not move them. What it did so is undone.

    Raises:
        ValueError: it did.
    """
    if moved := [w.name for w in active if w.put_back()]:
        name = "the optimizer" if optimizer is None else type(optimizer).__name__
        raise ValueError(
            f"{name} moves a tensor that {moved[0]!r} held when the optimizer was made, not what the parameter holds "
            "when it steps, which is the master: let its step() read p or p.data anew"
        )


def offset(use: str) -> int:
    """What tells the random bits of a use that has no key of its own from those of the others."""
    return zlib.crc32(use.encode()) << 30


def _widen(state: dict[str, Any], w: Weight) -> None:
    """What an optimizer keeps of a weight is as wide as the master; some make it before they have seen one."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.dtype == w.quantized.dtype and value.ndim:
            state[key] = value.to(w.master.dtype)


def _no_sparse(group: dict[str, Any], kind: int, active: dict[int, Weight]) -> None:
    for p in group["params"]:
        if kind and p.grad is not None and p.grad.is_sparse:
            name = repr(active[id(p)].name) if id(p) in active else f"a parameter of shape {tuple(p.shape)}"
            raise ValueError(
                f"decay='quantized' would make the sparse gradient of {name} dense: use decay='master', "
                "weight_decay=0, or the embedding with sparse=False"
            )
