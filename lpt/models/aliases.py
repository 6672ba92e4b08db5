"""Which values of a graph share memory. A graph whose writes make new values is right only where nothing else looks on.

torch's own schemas say which functions return a view: `chunk(Tensor(a -> *) self, ...) -> Tensor(a)[]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils import _pytree as pytree

from ..dataflow.ops import Function
from .operations import BROADCASTS, JOINS_MEMORY, SHARES, TENSOR_ATTRIBUTES

ORIGINS = {"placeholder": "its input", "get_attr": "its own buffer or parameter"}
Path = tuple[fx.Node, ...]  # from where the memory was made to the node, view by view


class Refused(Exception):
    """What a forward does that a graph of modules would not do; says where, and what it is."""

    def __init__(self, owner: str, what: str) -> None:
        super().__init__(what)
        self.owner = owner


@dataclass(frozen=True)
class Write:
    """A write into the tensor `old`, which the graph does out of place.

    Args:
        old: what is written into.
        new: what then takes its place.
        owner: the module in whose forward it happens.
        how: the name of the operation.
    """

    old: fx.Node
    new: fx.Node
    owner: str
    how: str


class Memory:
    """The memory behind the nodes of `graph`, as it is in the forward that was traced.

    Args:
        graph: as traced, with `writes` not yet brought to their later readers.
        modules: what the graph calls, by path.
        writes: in order.
    """

    def __init__(self, graph: fx.Graph, modules: dict[str, nn.Module], writes: list[Write]) -> None:
        self.graph = graph
        self.writes = writes
        self.same: dict[fx.Node, fx.Node] = {}  # what a write returns -> the tensor that it is
        for write in writes:
            self.same[write.new] = self.same.get(write.old, write.old)
        self.paths: dict[fx.Node, list[Path]] = {}
        for node in graph.nodes:
            above = [self.same[node]] if node in self.same else _shared(node, modules)
            self.paths[node] = [(*path, node) for parent in above for path in self.paths[parent]] or [(node,)]

    def misread(self, write: Write) -> str | None:
        """Who would see the values from before `write`, in words; None if nobody would."""
        tensor = self.same[write.new]
        for path in self.paths[tensor]:
            if path[0].op in ORIGINS:
                what = ORIGINS[path[0].op]
                return f"{what} {str(path[0].target).removeprefix('model.')}" if path[0].op == "get_attr" else what
        own = {tensor, *(node for node, of in self.same.items() if of is tensor)}
        for node in self.graph.nodes:
            if node is write.new:
                return None
            if node not in own and self._share(node, tensor) and any(write.new < user for user in node.users):
                return "memory that is read later under another name, or through another view"
        return None

    def settle(self) -> None:
        """Give every later reader of a tensor what the last write before it has made of it."""
        for i, write in reversed(list(enumerate(self.writes))):  # the last writer first: it is what later readers see
            tensor = self.same[write.new]
            earlier = [other.new for other in self.writes[:i] if self.same[other.new] is tensor]
            for old in (tensor, *earlier):
                for user in list(old.users):
                    if write.new < user:
                        user.replace_input_with(old, write.new)

    def _share(self, a: fx.Node, b: fx.Node) -> bool:
        return any(p[0] is q[0] and not _apart(p, q) for p in self.paths[a] for q in self.paths[b])


def _shared(node: fx.Node, modules: dict[str, nn.Module]) -> list[fx.Node]:
    """The nodes of whose memory `node` may be a view, or which it may be."""
    name = name_of(node, modules)
    args = node.args or tuple(node.kwargs.values())
    if name == "getitem" and any(isinstance(leaf, (fx.Node, list)) for leaf in _leaves(args[1], lists=True)):
        return []  # chosen by a tensor or a list: copied
    if name == "getattr" and args[1] not in TENSOR_ATTRIBUTES:
        return []
    if not (may_share(name) or node.kwargs.get("inplace") or (name == "relu" and len(node.args) > 1)):
        return []
    every = name in JOINS_MEMORY or not isinstance(args[0], fx.Node)
    return [leaf for leaf in _leaves(args if every else args[0]) if isinstance(leaf, fx.Node)]


def _leaves(value: Any, lists: bool = False) -> list[Any]:
    return pytree.tree_leaves(value, is_leaf=(lambda part: isinstance(part, list)) if lists else None)


def name_of(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    """The torch function that `node` calls, or "" for what returns memory of its own; leaf modules are "module"."""
    if node.op == "call_method":
        return str(node.target)
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", ""))
    if node.op != "call_module":
        return ""
    module = modules[str(node.target)]
    if isinstance(module, Function):
        return module.function if isinstance(module.function, str) else module.function.__name__
    return "module" if _hands_on(module) else ""


def _hands_on(module: nn.Module) -> bool:
    """Whether a leaf module may return what it was given, in one of the two modes."""
    if getattr(module, "inplace", False) or isinstance(module, (nn.Identity, nn.Flatten, nn.Unflatten, _DropoutNd)):
        return True
    known = type(module).__module__.startswith(("torch.nn", "lpt."))
    return not known and not any(True for _ in module.parameters())  # stochastic depth, for one


@cache
def may_share(name: str) -> bool:
    """Whether the torch function or method `name` may return memory of an argument."""
    if name in SHARES or name in JOINS_MEMORY:
        return True
    packet = getattr(torch.ops.aten, name, None) if name and not name.startswith("_") else None
    if packet is None:
        return False
    returned = [part for each in packet.overloads() for part in getattr(packet, each)._schema.returns]
    # (What writes into its argument returns it; out= does so as well, and is refused elsewhere.)
    infos = [part.alias_info for part in returned if part.alias_info is not None]
    return any(not info.is_write or name.endswith("_") for info in infos)


def _apart(p: Path, q: Path) -> bool:
    """Whether two views of one memory are certain not to overlap: two different items of one tensor or of one list."""
    split = next((i for i, (a, b) in enumerate(zip(p, q, strict=False)) if a is not b), None)
    if split is None:
        return False
    if any(getattr(n.target, "__name__", n.target) in BROADCASTS for n in p[:split]):
        return False  # the items of what was broadcast are one memory
    chosen = [
        node.args[1] if getattr(node.target, "__name__", "") == "getitem" else None for node in (p[split], q[split])
    ]
    items = [item for item in chosen if isinstance(item, int)]
    return len(items) == 2 and items[0] != items[1] and (items[0] < 0) == (items[1] < 0)
