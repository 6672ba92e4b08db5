"""Where a model's Edges stand, and what each of them is: an ordinary one, a last product's, the network's output's."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from ..weights.parameters import quantizable
from .edge import Edge, InputEdge
from .looking import NEVER_CALLED, choose, choose_by_name, look, warn_of
from .quantizer import Mode, Quantizer
from .roles import PRODUCTS, by_order, places
from .spec import DataFlow
from .tracing import Roles, Traced, can_trace

INPUT = "(input)"
OUTPUT = "the network's output"
_Pair = tuple[Any, Any]


class Placing:
    """The Edges of one model and their hooks.

    Attributes:
        edges: those that round something, by module name, and `INPUT`.
        left_out: module name -> why it has no Edge.
        every: all of them, those with nothing to round included.
        last: names of the last products. `output`: what follows them.
        entrance: the Edge in front of the model; it also has the model looked at.
        still: while set, the model is not looked at and roles stay.
        late: Edges that ran, but never while the model was looked at, so that what they are is a guess.
    """

    def __init__(self, model: nn.Module, flow: DataFlow, mode: Mode) -> None:
        self.model, self.flow, self.mode = model, flow, mode
        self.edges: dict[str, Edge] = {}
        self.left_out: dict[str, str] = {}
        self.every: dict[str, Edge] = {}
        self._hooks: list[Any] = []
        self._exchanged: Callable[[str, bool], Any] | None = None
        self._no_edge: dict[str, str] = {}
        self._roles: Roles | None = None  # of the passes so far
        self.still = False
        self.late: set[str] = set()
        self._warned = False
        found = list(places(model))
        self._check_rules()
        self.last, self.output = by_order(model)
        self._given = self._given_last()
        if self._given is not None:
            self.last, self.output = self._given, set()
        for place in found:
            if place.reason:
                self._no_edge[place.name] = place.reason
            else:
                make = partial(self.quantizers, place.name)
                self.every[place.name] = Edge(place.name, model, mode, make, place.waits)
        self.entrance = InputEdge(INPUT, model, mode, partial(self.quantizers, INPUT), self._look)
        self.every[INPUT] = self.entrance
        self._hook(dict(model.named_modules()))
        self._list()

    @property
    def known(self) -> bool:
        """Whether a forward pass has shown what is last."""
        return self.entrance.looked

    def quantizers(self, name: str, place: str) -> _Pair:
        """A's and E's, for one place of an Edge's outputs."""
        flow, full = self.flow, name + place
        if name == INPUT:
            return (None if flow.input == "fp32" else self._make("activation", full, flow.input)), None
        if name in self.output:
            return None, None
        if name in self.last:
            return None, (None if flow.last_error == "fp32" else self._make("error", full, flow.last_error))
        return self._make("activation", full), self._make("error", full)

    def quantizer(self, kind: str, name: str, form: str = "single") -> Quantizer | None:
        """One quantizer, for a place's or a parameter's name; None for fp32."""
        flow = self.flow
        format = flow.format_of(kind, name.rpartition(".")[0] if kind == "gradient" else name.partition("[")[0])
        if format.name == "fp32":
            return None
        stochastic = flow.rounding == "stochastic" and kind != "activation"
        key = f"{flow.seed}/{name}/{kind}/{rank() if kind == 'error' else 0}" if stochastic else None
        room = {"activation": flow.room_activation, "error": flow.room_error, "gradient": flow.room_gradient}[kind]
        dual, shared = form != "single", form == "dual_shared"
        return Quantizer(format, room, flow.scaling == "tracked", self.mode, key, dual, flow.scale_rule, shared)

    def wants(self, kind: str, name: str) -> bool:
        """Whether a format is asked for."""
        return self.flow.format_of(kind, name).name != "fp32"

    def exchange(self, make: Callable[[str, bool], Any]) -> None:
        """See `Flow.exchange`."""
        self._exchanged = make
        for edge in self.every.values():
            edge.exchange(edge.make)
        self._list()

    def assign(self, last: set[str], output: set[str]) -> None:
        """Say which products are last and what follows them; quantizers of Edges that stay what they were stay."""
        changed = (last ^ self.last) | (output ^ self.output)
        self.last, self.output = last, output
        for name in changed & self.every.keys():
            edge = self.every[name]
            edge.exchange(edge.make)
        self._list()

    def adopt(self, roles: Roles) -> None:
        """Take the roles of a saved run, as if its passes had been seen."""
        self._roles = roles
        self.assign(roles.last, roles.output)

    def forget(self, last: set[str], output: set[str]) -> None:
        """Undo `adopt`."""
        self._roles = None if not self.known else self._roles
        self.assign(last, output)

    def never_called(self) -> bool:
        """Whether Edges ran, but no pass of the model was looked at that would tell what they are."""
        if self.known or not any(e.ran and not e.waits for n, e in self.edges.items() if n != INPUT):
            return False
        return self._open(self.entrance.ran)

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    # -- inside --------------------------------------------------------------------------------------------------

    def _make(self, kind: str, name: str, form: str = "single") -> Any:
        quantizer = self.quantizer(kind, name, form)
        if quantizer is None or self._exchanged is None:
            return quantizer
        return self._exchanged(kind, form != "single")

    def _hook(self, modules: Mapping[str, nn.Module]) -> None:
        behind = [n for n in self.every if n != INPUT and (self.wants("activation", n) or self.wants("error", n))]
        if behind or (self.flow.input != "fp32" and self.wants("activation", INPUT)):
            self._hooks.append(self.model.register_forward_pre_hook(self.entrance, with_kwargs=True))
        for name in behind:
            self._hooks.append(modules[name].register_forward_hook(self.every[name]))

    def _list(self) -> None:
        rounding = {n: e for n, e in self.every.items() if e.activation is not None or e.error is not None}
        self.edges = rounding
        idle = {n: OUTPUT if n in self.output else "fp32 by choice" for n in self.every.keys() - rounding.keys()}
        self.left_out = {**self._no_edge, **{n: idle[n] for n in self.every if n in idle and n != INPUT}}

    def _look(self, args: Any, kwargs: Any) -> None:
        """Run the model once, without quantization, to see what is last and which arguments are activations."""
        if self.still:
            return
        if not can_trace():
            choose_by_name(self.flow, self.entrance, args, kwargs)
            if torch.compiler.is_compiling() and not self.known and self._open(True):
                raise ValueError(NEVER_CALLED)
            return
        traced, infinite = look(self.model, self.entrance, self.every.get(""), self.mode, args, kwargs)
        self._learn(traced)
        choose(self.flow, self.entrance, infinite, traced.arguments)
        self.entrance.looked = True

    def _learn(self, traced: Traced) -> None:
        """Join what a pass showed with what earlier ones did, and see which Edges none of them saw."""
        entrance = self.entrance
        last = traced.last() if self._given is None else self._given
        roles = Roles(traced.called, last, traced.output(last))
        roles = roles if self._roles is None else self._roles.joined(roles)
        late = {edge.name for edge in entrance.unseen if edge.ran}
        changed = late & ((roles.last ^ self.last) | (roles.output ^ self.output))
        self._roles = roles
        self.assign(roles.last, roles.output)
        self.late = (self.late | late) - roles.called
        entrance.modes.add(self.model.training)
        seen = roles.called | self.late | {INPUT}
        entrance.unseen = [edge for name, edge in self.every.items() if name not in seen]
        if (changed or late & self.late) and not self._warned:
            self._warned = True
            warn_of(changed or late)

    def _open(self, entered: bool) -> bool:
        """Whether there is more to know than the user or a saved run tells, where no pass can be looked at."""
        told = self._roles is not None
        single = told or self.flow.input_arguments is not None or self.entrance.arguments.single
        return not ((told or self._given is not None) and (INPUT not in self.edges or (entered and single)))

    def _given_last(self) -> set[str] | None:
        """The last products that the user or the model names."""
        names = dict(self.model.named_modules())
        if self.flow.last is None:
            own: Sequence[str] | None = getattr(self.model, "last_products", None)
            return None if own is None else set(own)
        chosen = {name for name in names if fnmatch.fnmatchcase(name, self.flow.last)}
        if not chosen:
            products = [n for n, m in names.items() if isinstance(m, PRODUCTS)]
            raise ValueError(f"last={self.flow.last!r} matches no module; the products are {', '.join(products)}")
        return chosen

    def _check_rules(self) -> None:
        modules = [name for name, _ in self.model.named_modules()]
        for rule in self.flow.rules:
            if not fnmatch.filter([*modules, *quantizable(self.model), INPUT], rule["pattern"]):
                raise ValueError(
                    f"the rule's pattern {rule['pattern']!r} matches no module of the model; "
                    f"there are {', '.join(modules[1:6])}, ..."
                )


def rank() -> int:
    """Of this process among those that train together."""
    initialized = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if initialized else 0
