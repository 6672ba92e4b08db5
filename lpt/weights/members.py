"""Which weights of a model are quantized, and whether they are still the ones that it has."""

from __future__ import annotations

import copy
import operator
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from .contraction import InFeatures
from .optimizers import USES
from .parameters import channel_dim, channel_groups, chosen, why_not
from .remedy import Remedy
from .rules import Scheme
from .sharded import refuse_sharded
from .step import Channels, Plan, Seen
from .weight import Weight

_KEY_BITS = 61


class Members:
    """The quantized weights of a model, in its order.

    A model may change: layers are wrapped, tied, pruned, exchanged. `look` compares all its modules' parameters with
    those it saw last, by identity, and only looks closer if one differs.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, granularity: str, skip: Sequence[str], seed: int, remedy: Remedy
    ) -> None:
        self.remedy = remedy
        self.model, self.plan, self.by_channel, self.skip, self.seed = model, plan, granularity == "channel", skip, seed
        self.attached = False  # whether optimizers' steps are ours without being told
        self.weights: list[Weight] = []
        self.by_id: dict[int, Weight] = {}
        self._hooks: list[Any] = []
        self.take()

    def take(self) -> None:
        """Quantize the model's weights as they are now; those that are quantized already keep their masters.

        Raises:
            ValueError: as `QuantizedWeights`.
        """
        params = self._chosen()
        first = self._first_keys(list(params)) if not self.weights else {}
        known = {id(w.param): w for w in self.weights if w.master.shape == w.param.shape}
        self.weights = [
            known[id(p)]
            if id(p) in known
            else Weight(name, p, self.plan, self._channels(name), self._keys(name, first), self.remedy.memory)
            for name, p in params.items()
        ]
        for name, w in zip(params, self.weights, strict=True):
            w.name = name
        self._settle()

    def exchange(self, scheme: Scheme) -> None:
        """From now on all weights go by this scheme, which must be of the same format and have no state."""
        self.plan = replace(self.plan, scheme=scheme)
        for w in self.weights:
            w.exchange(self.plan)

    def meet(self, optimizer: torch.optim.Optimizer) -> None:
        """`look`, if this optimizer, which holds none of these weights, holds other parameters of a changed model."""
        if self._same(seen := _parameters(self.model)):
            return
        own = {id(p) for p in seen[1] if p is not None}
        if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
            self.look()

    def look(self) -> None:
        """Follow the model's structure: other names are taken over, and weights that are gone are dropped.

        Raises:
            ValueError: it has weights that are not quantized, or a quantized one is no weight any more.
        """
        if self._same(seen := _parameters(self.model)):
            return
        params = self._chosen()
        if new := [name for name, p in params.items() if id(p) not in self.by_id]:
            raise ValueError(
                f"{new[0]!r} is another parameter than when the model was quantized ({len(new)} such): call refresh() "
                "on the handle of the quantized weights once the model is complete, and see that an optimizer holds it"
            )
        names = {id(p): name for name, p in params.items()}
        reasons, now = why_not(self.model), {id(p): f"it is {name!r} now" for name, p in self.model.named_parameters()}
        for w in self.weights:
            reason = reasons.get(w.name) or now.get(id(w.param))
            if reason and id(w.param) not in names:
                raise ValueError(
                    f"{w.name!r} is no weight any more that can be quantized ({reason}): undo that, or change the "
                    "model before its weights are quantized"
                )
        self.weights = [w for w in self.weights if id(w.param) in names]
        for w in self.weights:
            w.name = names[id(w.param)]
        self._settle(seen)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.by_id = {id(w.param): w for w in self.weights}  # a copy's parameters are others

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    # -- inside -------------------------------------------------------------------------------------------------------

    def _settle(self, seen: tuple[list[str], list[Any]] | None = None) -> None:
        self.by_id = {id(w.param): w for w in self.weights}
        self._seen = seen or _parameters(self.model)
        self.remove()
        for module in self.model.modules():
            if any(id(p) in self.by_id for p in module._parameters.values()):
                self._hooks.append(module.register_load_state_dict_post_hook(AfterLoad(self)))

    def _same(self, seen: tuple[list[str], list[Any]]) -> bool:
        pairs = list(zip(seen, self._seen, strict=True))
        return all(len(now) == len(then) and all(map(operator.is_, now, then)) for now, then in pairs)

    def _channels(self, name: str) -> Seen:
        if self.plan.format.block is not None:
            lies = getattr(self.plan.format, "lies", "")
            if lies == "kernel":
                raise ValueError(
                    f"{self.plan.format.name}: tiles over a kernel are for products=, give 48x48 or flat48x48"
                )
            return InFeatures() if lies == "flat" else InFeatures.of(self.model, name)
        if not self.by_channel:
            return Channels()
        return Channels(channel_dim(self.model, name), channel_groups(self.model, name))

    def _chosen(self) -> dict[str, nn.Parameter]:
        refuse_sharded(self.model)
        everything = chosen(self.model, self.skip)  # in any case, for its checks
        return {} if self.plan.format.name == "fp32" else everything

    def _first_keys(self, names: list[str]) -> dict[str, list[int]]:
        """Where the random bits of each use of each weight begin; they follow from the seed, and no two are alike."""
        draw = random.Random(f"{self.seed}/weights")
        rows = [[draw.getrandbits(_KEY_BITS) for _ in names] for _ in USES]
        return {name: [row[i] for row in rows] for i, name in enumerate(names)}

    def _keys(self, name: str, first: dict[str, list[int]]) -> torch.Tensor:
        draw = random.Random(f"{self.seed}/weights/{name}")  # of a weight that came later
        keys = first.get(name) or [draw.getrandbits(_KEY_BITS) for _ in USES]
        return torch.tensor(keys, device=self.model.get_parameter(name).device)


class AfterLoad:
    """After a state dict was loaded into a module, by itself or with those around it: its weights see whether it was
    into them. In a copy of a part of the model it does nothing: the copy's weights are not quantized weights.
    """

    def __init__(self, members: Members | None) -> None:
        self.members = members

    def __call__(self, module: nn.Module, keys: Any) -> None:
        by_id = {} if self.members is None else self.members.by_id
        with torch.no_grad():
            for p in module._parameters.values():
                if id(p) in by_id:
                    by_id[id(p)].loaded()

    def __deepcopy__(self, memo: dict[int, Any]) -> AfterLoad:
        whole = self.members is not None and id(self.members.model) in memo
        return AfterLoad(copy.deepcopy(self.members, memo) if whole else None)


def _parameters(model: nn.Module) -> tuple[list[str], list[Any]]:
    """The local names of modules and parameters, and the parameters: other ones only when the model has changed."""
    names: list[str] = []
    found: list[Any] = []
    seen, modules = set(), [model]
    while modules:
        module = modules.pop()
        if module is None or id(module) in seen:
            continue
        seen.add(id(module))
        names += module._modules
        names += module._parameters
        found += module._parameters.values()
        modules += module._modules.values()  # type: ignore[arg-type]
    return names, found
