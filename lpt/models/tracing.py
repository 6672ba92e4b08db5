"""Finding the arithmetic in someone else's forward: a torch.fx tracer that turns each operation into a module."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.node import Target
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from ..dataflow.ops import Function, ScaledDotProduct
from .aliases import Memory, Refused, Write
from .attention import SPELLED, spelled_parts
from .comparing import Modes
from .operations import (
    ATTENTION_ARGUMENTS,
    DROPOUTS,
    FACTS,
    IN_PLACE,
    KEEPS_VALUES,
    PAIRS,
    TENSOR_ATTRIBUTES,
)


class Traced(nn.Module):
    """What is traced: a model called with one tensor, its other arguments at their defaults."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Any) -> Any:
        return self.model(x)


class TracedTensor(fx.Proxy):
    """The stand-in for a tensor. torch.fx's own would take `a += b` for `a = a + b`, which leaves other names of a."""

    tracer: Tracer

    def __setitem__(self, index: Any, value: Any) -> None:
        raise self.tracer.refused("it assigns to items of a tensor: make a new tensor of it")

    def __setattr__(self, name: str, value: Any) -> None:
        if "node" in self.__dict__:
            raise self.tracer.refused(f"it sets {name} of a tensor: make a new tensor of it")
        super().__setattr__(name, value)


def _writing(name: str) -> Callable[[Any, Any], Any]:
    def write(self: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", getattr(operator, name), (self, other), {})

    return write


for _name in IN_PLACE:
    setattr(TracedTensor, f"__{_name}__", _writing(_name))


class Tracer(fx.Tracer):
    """Traces a `Traced` in its present mode (train or eval), without changing it.

    Attributes:
        placed: path -> the module to put there, so that the graph can call it.
        owners: paths of the modules being traced; if tracing fails, the last is where.
    """

    proxy_buffer_attributes = True

    def __init__(self) -> None:
        super().__init__()
        self.placed: dict[str, nn.Module] = {}
        self.owners: list[str] = []
        self._numbers: set[fx.Node] = set()
        self._writes: list[Write] = []
        self._modes = Modes()

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of `root`.

        Raises:
            Refused: it would compute something else than `root` does.
        """
        graph = super().trace(root, concrete_args)
        memory = Memory(graph, {**dict(root.named_modules()), **self.placed}, self._writes)
        for write in self._writes:
            if seen := memory.misread(write):
                raise Refused(write.owner, f"{write.how} writes into {seen}: make a new tensor there (h = h + y)")
        memory.settle()
        return graph

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return TracedTensor(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, nn.Sequential):
            return False
        if type(m).__module__.startswith(("torch.nn", "torch.ao.nn")) or isinstance(m, tuple(SPELLED.values())):
            return True
        if any(m.children()):
            return False
        # A convolution or normalization of another library's; or a small module that has its own way of training,
        # such as stochastic depth.
        return _torch_class(m) is not None or (not m._parameters and _reads_training(m))

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        self.owners.append(path)
        if self.is_leaf_module(m, path):
            for place, spelled in spelled_parts(m, path):
                self.placed.setdefault(place, spelled)
        if isinstance(m, _BatchNorm) and set(dict(m.named_children())) == {"drop", "act"}:
            result = self._norm_and_act(m, path, args)
        else:
            result = super().call_module(m, forward, args, kwargs)
        self.owners.pop()
        return result

    def create_proxy(
        self, kind: str, target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], *more: Any, **options: Any
    ) -> Any:
        if kind.startswith("call") and (switched := self._modes.switched()):
            raise self.refused(switched)
        if kind not in ("call_function", "call_method"):
            return super().create_proxy(kind, target, args, kwargs, *more, **options)
        if inspect.isfunction(target) and (target.__module__ or "").partition(".")[0] != "torch":
            return target(*args, **kwargs)  # another library's function, hidden from tracing by fx.wrap: look inside
        name = target if isinstance(target, str) else target.__name__
        proxies = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, fx.Proxy)]
        numbers = all(proxy.node in self._numbers for proxy in proxies)
        if numbers or name in KEEPS_VALUES:
            proxy = super().create_proxy(kind, target, args, kwargs, *more, **options)
            fact = name in FACTS or (name == "getattr" and args[1] not in TENSOR_ATTRIBUTES)
            if numbers or fact:
                self._numbers.add(proxy.node)
            return proxy
        return self._as_module(kind, target, name, args, kwargs)

    # -- inside ------------------------------------------------------------------------------------------------

    def _as_module(self, kind: str, target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "multi_head_attention_forward":
            raise NotImplementedError("it calls F.multi_head_attention_forward, which hides its products")
        if name == "scaled_dot_product_attention":
            kwargs = {**dict(zip(ATTENTION_ARGUMENTS, args, strict=False)), **kwargs}
            module: nn.Module = ScaledDotProduct(kwargs.pop("dropout_p", 0.0))
            return self._call("attention", module, (), kwargs)
        if name in DROPOUTS and kind == "call_function":
            given = inspect.signature(getattr(F, name)).bind(*args, **kwargs)
            given.apply_defaults()
            if given.arguments["training"] != self.root.training:  # it does not follow the mode: no module can say so
                return super().create_proxy(kind, target, args, kwargs)
            tensor = given.arguments["input"]
            dropped = self._call("dropout", DROPOUTS[name](given.arguments["p"]), (tensor,), {})
            return self._written(tensor, dropped, name) if given.arguments.get("inplace") else dropped
        plain, target, in_place = _out_of_place(name, target)
        # (bernoulli_() draws with 1/2, but bernoulli() with the tensor's own values.)
        if target is None or kwargs.get("out") is not None or (name == "bernoulli_" and not args[1:] and not kwargs):
            raise self.refused(f"{name} writes, and has no form out of place: make a new tensor there")
        if inspect.isfunction(target) and "inplace" in (signature := inspect.signature(target)).parameters:
            given = signature.bind(*args, **kwargs)
            in_place |= given.arguments.pop("inplace", False)
            args, kwargs = given.args, given.kwargs
        if plain in PAIRS and len(args) == 2 and not kwargs and all(self._is_tensor(arg) for arg in args):
            module = PAIRS[plain]()
        else:
            module = Function(target)
        result = self._call(plain, module, args, kwargs)
        return self._written(args[0], result, name) if in_place else result

    def _written(self, tensor: Any, result: Any, name: str) -> Any:
        if self._is_tensor(tensor):
            self._writes.append(Write(tensor.node, result.node, self.owners[-1], name))
        elif not isinstance(tensor, fx.Proxy):
            raise self.refused(f"{name} writes into what is not made in the forward, or into several tensors")
        return result

    def refused(self, what: str) -> Refused:
        """The error that says where the trace is."""
        return Refused(self.owners[-1], what)

    def _is_tensor(self, value: Any) -> bool:
        return isinstance(value, fx.Proxy) and value.node not in self._numbers

    def _call(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call `module`, to be placed as `name` in the module whose forward is being traced."""
        path = self._free(f"{self.owners[-1]}.{name}")
        self.placed[path] = module
        return self.create_proxy("call_module", path, args, kwargs)

    def _free(self, path: str) -> str:
        owner, _, name = path.rpartition(".")
        module, unique, count = self.root.get_submodule(owner), name, 0
        while hasattr(module, unique) or f"{owner}.{unique}" in self.placed:
            count += 1
            unique = f"{name}_{count}"
        return f"{owner}.{unique}"

    def _norm_and_act(self, m: _BatchNorm, path: str, args: tuple[Any, ...]) -> Any:
        """timm's batch-norm with activation: the normalization stays where it was, its activation moves beside it."""
        if path not in self.placed:
            self.placed[path] = _plain(m)
        result = self.create_proxy("call_module", path, args, {})
        for name, child in m.named_children():
            if not isinstance(child, nn.Identity):
                beside = self._free(f"{path}_{name}")
                self.placed[beside] = child
                result = self.create_proxy("call_module", beside, (result,), {})
        return result


def _torch_class(m: nn.Module) -> type | None:
    """The torch module that `m` is a kind of, if it computes anything (nn.Module and containers do not)."""
    for kind in type(m).__mro__:
        if kind.__module__.startswith("torch.nn.modules"):
            return None if kind is nn.Module or kind.__module__.endswith("container") else kind
    return None


def _reads_training(m: nn.Module) -> bool:
    code = getattr(type(m).forward, "__code__", None)
    return code is not None and "training" in code.co_names


def _plain(m: _BatchNorm) -> nn.Module:
    """torch's own batch-norm with the parameters and buffers of `m`."""
    kind = _torch_class(m)
    assert kind is not None
    norm = kind(m.num_features, m.eps, m.momentum, m.affine, m.track_running_stats)
    for name, value in {**m._parameters, **m._buffers}.items():
        setattr(norm, name, value)
    return norm


def _out_of_place(name: str, target: Any) -> tuple[str, Any, bool]:
    """The name and target (None: there is none) of the operation that returns what `name` would write."""
    if getattr(target, "__module__", None) == "_operator":
        plain = IN_PLACE.get(name, name)
        return plain, getattr(operator, plain), name in IN_PLACE
    if not name.endswith("_") or name.endswith("__"):
        return name, target, False
    plain = name[:-1]
    if isinstance(target, str):
        return plain, plain if callable(getattr(torch.Tensor, plain, None)) else None, True
    homes = [home for home in (torch, F) if getattr(home, name, None) is target]
    return plain, next((getattr(home, plain) for home in homes if hasattr(home, plain)), None), True
