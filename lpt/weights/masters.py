"""A model's quantized weights and their masters.

A `Parameter` holds the *quantized* weight, so the forward pass, evaluation and the state dict see nothing else. Its
full-precision *master* takes its place only while the optimizer steps. Afterwards a scheme computes the new
quantized weight from the new master and the previous quantized weight.
"""

from __future__ import annotations

import fnmatch
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .. import formats
from ..formats.scaling import RULES
from . import rules
from .optimizers import MOMENTA, Decays, decay_by, restart_decay, round_momenta
from .parameters import channel_dim, quantizable
from .rules import FormatSpec, Scheme
from .step import fused_step, step


class QuantizedWeights:
    """Quantizes a model's weights in place and keeps their masters.

    In a loop: `swap_in(optimizer)` when the gradients are ready, `optimizer.step()`, `update(optimizer)`; `restore()`
    instead of the last if the step raised. `attach_weights_` does this by hooks on the optimizer.

    Args:
        model: its weights (`lpt.weights.parameters.quantizable`) become quantized now, to nearest.
        scheme, format, width: as for `lpt.weights.scheme`. "fp32" quantizes nothing.
        scaling: "current", the scale of the master's largest magnitude at each step, or "tracked", which moves
            towards it by at most one a step.
        scale_rule: when a largest weight counts to the octave above (`lpt.formats.Format.carry`): "rounded", where
            rounding it would reach that octave, as the paper's author has it; "floor", never; "ceil"; "rceil".
        granularity: "channel", one scale per output channel of a convolution and one per layer otherwise, or
            "tensor", one per layer throughout.
        master, momentum: "fp32", or "fp169" (16 bits, stochastic rounding after each step).
        decay: weight decay acts on the "master", as the optimizer does it, or on the "quantized" weight.
        skip: globs of parameter names to leave in full precision.
        room: octaves of headroom of the weight's scale.
        seed: of all stochastic rounding; the same on all ranks.
        fused: compile the update into one pass over each weight; the bits stay the same.

    Raises:
        ValueError: an unknown choice, or a pattern of `skip` that matches no weight.
    """

    def __init__(
        self,
        model: nn.Module,
        scheme: str | Scheme = "log4_hyst",
        *,
        format: FormatSpec | None = None,
        width: float | None = None,
        scaling: str = "current",
        scale_rule: str = "rounded",
        granularity: str = "channel",
        master: str = "fp32",
        momentum: str = "fp32",
        decay: str = "master",
        skip: Sequence[str] = (),
        room: int = 0,
        seed: int = 0,
        fused: bool = False,
    ) -> None:
        for key, got, valid in (
            ("scaling", scaling, ("current", "tracked")),
            ("scale_rule", scale_rule, RULES),
            ("granularity", granularity, ("channel", "tensor")),
            ("master", master, ("fp32", "fp169")),
            ("momentum", momentum, ("fp32", "fp169")),
            ("decay", decay, ("master", "quantized")),
        ):
            if got not in valid:
                raise ValueError(f"{key}={got!r} is not one of {', '.join(valid)}")
        self.scheme = rules.scheme(scheme, format, width)
        self.scaling, self.granularity, self.decay, self.room = scaling, granularity, decay, room
        self.scale_rule = scale_rule
        self.master_format, self.momentum_format = formats.get(master), formats.get(momentum)
        self.model = model
        self.params = self._chosen(skip)
        self.names = list(self.params)
        self.swapped = False
        self.calls = 0  # of `update`, and so the counter of all random bits
        self.fused = fused
        # Where each weight's random bits begin, one row a use of them: master, quantized weight, momenta.
        draw = random.Random(f"{seed}/weights")
        uses = range(2 + len(MOMENTA))
        self._keys = torch.tensor([[draw.getrandbits(61) for _ in self.names] for _ in uses]).to(self._device())
        self._decays: Decays = []
        self.masters: dict[str, Tensor] = {}
        self.scales: dict[str, Tensor] = {}
        self.resync()
        self._hook = model.register_load_state_dict_post_hook(self._after_load)

    # -- around the optimizer's step ----------------------------------------------------------------------------

    @torch.no_grad()
    def swap_in(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Put the masters into the parameters: the optimizer is about to step."""
        if self.swapped:
            raise RuntimeError("the masters are in the parameters already; call update() or restore() after the step")
        if self.decay == "quantized" and optimizer is not None and self.names:
            masters = {id(p): self.masters[name] for name, p in self.params.items()}
            self._decays = decay_by(optimizer, masters)
        self._follow()
        self._quantized = [p.data for p in self.params.values()]
        self._point(self.masters.values())
        self.swapped = True

    @torch.no_grad()
    def update(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        """The optimizer has stepped: keep the new masters, and write the next quantized weights."""
        if not self.swapped:
            raise RuntimeError("update() without swap_in(): call swap_in() before the optimizer's step")
        self._end_swap()
        self._point(self._quantized)
        self.calls += 1
        if self.master_format.name != "fp32":
            for i, m in enumerate(self.masters.values()):
                m.copy_(self.master_format.round(m, stochastic=self._key(i, 1)))
        if self.momentum_format.name != "fp32" and optimizer is not None:
            round_momenta(optimizer, self.params.values(), self.momentum_format, self._key)
        pairs = zip(self.names, self._quantized, strict=True)
        flips = [self._next(i, name, quantized) for i, (name, quantized) in enumerate(pairs)]
        if flips:
            self._flips[:, :2] += torch.stack(flips)
            self._flips[:, 2] += self._sizes
        self._quantized = []

    @torch.no_grad()
    def restore(self) -> None:
        """The step failed: quantized weights back into the parameters; the masters stay as the step left them."""
        if self.swapped:
            self._point(self._quantized)
            self._quantized = []
            self._end_swap()

    @torch.no_grad()
    def resync(self) -> None:
        """Take the parameters as new masters and quantize them to nearest, as after loading foreign weights."""
        for name, p in self.params.items():
            self.masters[name] = m = p.detach().clone()
            self.scales[name] = self._scale(name, m)
            p.copy_(self.scheme.format.round(m, self.scales[name]))
        self.reset_flips()

    @contextmanager
    def averaged(self, averages: Mapping[str, Tensor]) -> Iterator[None]:
        """Within, the model's parameters hold these averages by name, those of masters quantized to nearest."""
        held = {name: self.model.get_parameter(name) for name in averages}
        before = {name: p.detach().clone() for name, p in held.items()}
        with torch.no_grad():
            for name, p in held.items():
                average = averages[name]
                quantized = name in self.params
                p.copy_(self.scheme.format.round(average, self._scale(name, average)) if quantized else average)
        try:
            yield
        finally:
            with torch.no_grad():
                _copy(held.values(), before.values())

    # -- flips ---------------------------------------------------------------------------------------------------

    def flips(self) -> Tensor:
        """int64 [weights, 3]: level flips, regrid flips, and elements times steps, since `reset_flips`.

        A flip is a weight whose quantized value changed at a step: a regrid flip if its scale moved at that step,
        a level flip otherwise. On the weights' device; reading it is the only synchronization.
        """
        return self._flips

    def reset_flips(self) -> None:
        device = self._device()
        self._flips = torch.zeros(len(self.params), 3, dtype=torch.int64, device=device)
        self._sizes = torch.tensor([p.numel() for p in self.params.values()], device=device)

    # -- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on: masters, quantized weights, scales, counters."""
        return {
            "masters": self.masters,
            "quantized": {name: p.detach() for name, p in self.params.items()},
            "scales": self.scales,
            "flips": self._flips,
            "calls": self.calls,
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: it is of other weights.
        """
        if state["masters"].keys() != self.params.keys():
            odd = sorted(state["masters"].keys() ^ self.params.keys())
            raise ValueError(
                f"the saved masters are of other weights: {len(odd)} differ, for example {odd[0]!r}; "
                "resume with the model and weights= of the saved run"
            )
        self._follow()
        for name, p in self.params.items():
            self.masters[name].copy_(state["masters"][name])
            p.copy_(state["quantized"][name])
            self.scales[name].copy_(state["scales"][name])
        self._flips.copy_(state["flips"])
        self.calls = state["calls"]

    # -- inside --------------------------------------------------------------------------------------------------

    def _chosen(self, skip: Sequence[str]) -> dict[str, nn.Parameter]:
        everything = quantizable(self.model)
        if isinstance(skip, str):
            raise ValueError(f"skip={skip!r} is not a list of patterns: write ['{skip}']")
        for pattern in skip:
            if not fnmatch.filter(everything, pattern):
                some = ", ".join(list(everything)[:6])
                raise ValueError(f"skip={pattern!r} matches no weight; there are {some}, ...")
        if self.scheme.format.name == "fp32":
            return {}
        return {
            name: p  # type: ignore[misc]
            for name, p in everything.items()
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in skip)
        }

    def _device(self) -> torch.device:
        return next(iter(self.params.values())).device if self.params else torch.device("cpu")

    def _after_load(self, *_: Any) -> None:
        self.resync()

    def _follow(self) -> None:
        """To where the parameters have been moved, and to the memory format that they now have."""
        for name, p in self.params.items():
            m = self.masters[name]
            if m.device != p.device or m.stride() != p.stride():
                self.masters[name] = torch.empty_like(p).copy_(m)
                self.scales[name] = self.scales[name].to(p.device)
                self._flips, self._sizes = self._flips.to(p.device), self._sizes.to(p.device)
                self._keys = self._keys.to(p.device)

    def _point(self, tensors: Iterable[Tensor]) -> None:
        """Let the parameters hold these tensors: nothing is copied."""
        for p, tensor in zip(self.params.values(), tensors, strict=True):
            p.data = tensor

    def _scale(self, name: str, master: Tensor) -> Tensor:
        return self.scheme.format.scale_of(master, self._dim(name), self.room, self.scale_rule)

    def _dim(self, name: str) -> int | None:
        return channel_dim(self.model, name) if self.granularity == "channel" else None

    def _next(self, i: int, name: str, quantized: Tensor) -> Tensor:
        """Write the next quantized weight over the last one; level flips and regrid flips, int64 [2]."""
        master, scale, dim = self.masters[name], self.scales[name], self._dim(name)
        key = self._key(i, 0) if self.scheme.stochastic else None
        tracked = self.scaling == "tracked"
        if self.fused and dim in (0, None) and quantized.is_contiguous() and master.is_contiguous():
            rows = 1 if dim is None else len(master)
            run = fused_step(self.scheme, self.room, self.scale_rule, tracked)  # type: ignore[arg-type]
            return run(master.view(rows, -1), quantized.view(rows, -1), scale.view(rows, 1), 0, key)
        return step(self.scheme, self.room, self.scale_rule, tracked, master, quantized, scale, dim, key)

    def _key(self, index: int, use: int) -> Tensor:
        """A key of its own for each step, weight and use of random bits: no state beyond the count of steps."""
        return self._keys[use, index] + self.calls

    def _end_swap(self) -> None:
        self.swapped = False
        restart_decay(self._decays)
        self._decays = []


def _copy(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    if pairs := list(zip(targets, sources, strict=True)):
        torch._foreach_copy_([target for target, _ in pairs], [source for _, source in pairs])
