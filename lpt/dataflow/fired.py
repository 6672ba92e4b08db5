"""Whether everything that was attached to a model rounded something while the model trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import nn

from .attach_products import Multiplied
from .flow import INPUT, Flow
from .roles import HIDES_PRODUCTS


class Watched:
    """Counts which modules run, and what their Edges and products round, between its making and `close`.

    What is counted costs a pass over each rounded tensor.
    """

    def __init__(self, flow: Flow, products: Multiplied | None) -> None:
        self.flow, self.products = flow, products
        self.called: set[str] = set()
        modules = dict(flow.model.named_modules())
        watched = {*flow.edges, *(products.rounding if products else {})} & modules.keys()
        self._hooks = [modules[name].register_forward_hook(self._calls(name)) for name in watched]
        self._measure = flow.measure()
        self._counts = self._measure.__enter__()
        for multiplying in (products.rounding if products else {}).values():
            multiplying.ran = False

    def _calls(self, name: str):  # type: ignore[no-untyped-def]
        return lambda *_: self.called.add(name)

    def silent(self) -> dict[str, str]:
        """Module name -> what of it never rounded, although the module ran or its own parameters got a gradient."""
        counts = self._counts()
        found: dict[str, str] = {}
        modules = dict(self.flow.model.named_modules())
        reached = _with_gradient(modules)
        for name, edge in self.flow.edges.items():
            if name == INPUT or edge.waits or name not in modules or _within_hidden(name, modules):
                continue
            kinds = {kind.partition("/")[0] for place in edge.everywhere() for kind in counts.get(place, {})}
            if edge.activation is not None and "activation" not in kinds and name in self.called | reached:
                found[name] = "its Edge never rounded an activation"
            elif edge.error is not None and "error" not in kinds and name in reached:
                found[name] = "its Edge never rounded an error"
        for name, multiplying in (self.products.rounding if self.products else {}).items():
            if not multiplying.ran and name in self.called | reached:
                found[name] = "its product never ran with rounded operands"
        return found

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        if self._hooks or self._measure:
            self._measure.__exit__(None, None, None)
        self._hooks = []


def _with_gradient(modules: Mapping[str, nn.Module]) -> set[str]:
    """The modules of whose own parameters one has a gradient, and is no other module's as well."""
    own = {name: list(module.parameters(recurse=False)) for name, module in modules.items()}
    owners = Counter(id(p) for parameters in own.values() for p in parameters)
    return {n for n, ps in own.items() if any(p.grad is not None and owners[id(p)] == 1 for p in ps)}


def _within_hidden(name: str, modules: Mapping[str, nn.Module]) -> bool:
    parents = [name[:at] for at, letter in enumerate(name) if letter == "."]
    return any(isinstance(modules.get(parent), HIDES_PRODUCTS) for parent in parents)
