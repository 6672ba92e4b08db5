"""The adapter for other people's models: every operation that makes new values becomes a module that hooks can see."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, fx, nn

from ..dataflow.ops import ScaledDotProduct
from ..errors import UserError
from .aliases import Refused
from .comparing import frozen, observed, same_or_refused
from .tracing import Traced, Tracer


class Visible(nn.Module):
    """A model's modules, parameters and names, with a forward that runs through modules alone.

    `print` shows the modules as they were, with `add`, `mul`, `matmul`, `mean`, ... where the operations were called;
    `source` is the forward as Python code. Hooks, deepcopy, pickle and torch.compile work as with any module.
    """

    def __init__(self, model: nn.Module, code: fx.graph.PythonCode) -> None:
        super().__init__()
        self.original = type(model).__name__
        self._modules.update(model._modules)
        self._parameters.update(model._parameters)
        self._buffers.update(model._buffers)
        self._non_persistent_buffers_set.update(model._non_persistent_buffers_set)
        self.training = model.training
        self.source = code.src
        self._names = code.globals
        self._compile()

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to whatever the model returns for them, (N, classes)."""
        return self._run(self, x)

    def _compile(self) -> None:
        names = dict(self._names)
        exec(compile(self.source, f"<forward of {self.original}>", "exec"), names)
        self._run = names["forward"]

    def _get_name(self) -> str:
        return f"Visible{self.original}"

    # Functions made by exec cannot be pickled, nor can modules of Python: both are made anew.
    def __getstate__(self) -> dict[str, Any]:
        state = {key: value for key, value in self.__dict__.items() if key not in ("_run", "_names")}
        state["_imports"] = {k: v.__name__ for k, v in self._names.items() if isinstance(v, ModuleType)}
        state["_objects"] = {k: v for k, v in self._names.items() if k not in state["_imports"] and k != "__builtins__"}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        imports, objects = state.pop("_imports"), state.pop("_objects")
        super().__setstate__(state)
        self._names = {**objects, **{name: importlib.import_module(path) for name, path in imports.items()}}
        self._compile()


def visible(model: nn.Module, name: str | None = None, example: Tensor | None = None) -> Visible:
    """`model` with its sums, gates, products, poolings, activations and dropouts as modules of their own.

    The state-dict keys stay, so do the outputs, bit for bit (fused attention, also of `nn.MultiheadAttention`, as
    product, scaling, softmax, product, up to rounding). Numbers and attributes that the forward reads, a temperature
    for one, are those of now: set them before. In-place operations become out-of-place; a write that something else
    than the tensor's own name would see (a view, a buffer, the input) is refused. `model` is used up: its modules and
    parameters live on in the result.

    Args:
        model: takes one tensor, returns one tensor; other arguments of its forward stay at their defaults.
        name: what to call it in error messages.
        example: an input, with which the result is compared to `model` once in training and once in evaluation, with
            the same random numbers: outputs, buffers, the input afterwards, and which parameters would get a gradient.
            No state changes.

    Raises:
        UserError: the model's forward cannot be traced, calls something with gradients switched or within
            `torch.autocast`, is not the same computation in training and evaluation, or is
            not what the result computes; the model does not take the example. It is left as it was.
    """
    name = name or type(model).__name__
    training = model.training
    try:
        graph, placed = _trace(model.train(), name)
        other, _ = _trace(model.eval(), name)
    finally:
        model.train(training)
    if str(graph) != str(other):
        pairs = zip(_calls(graph), _calls(other), strict=False)
        odd = next((f"{a!r} against {b!r}" for a, b in pairs if a != b), "one is longer")
        raise UserError(f"{name} computes other things in training than in evaluation, apart from dropout: {odd}")
    before = None if example is None else observed(model, example, name)
    replaced = _place(model, placed)
    result = Visible(model, graph.python_code("self"))
    if before is not None and example is not None:
        exact = not any(isinstance(part, ScaledDotProduct) for new in placed.values() for part in new.modules())
        try:
            same_or_refused(before, observed(result, example, name), exact, name)
        except UserError:
            _place(model, replaced)
            raise
    return result


def _calls(graph: fx.Graph) -> list[str]:
    """The forward's statements as Python code, without fx's `x = None` behind them."""
    lines = (line.partition(";")[0].strip() for line in graph.python_code("self").src.splitlines())
    return [line for line in lines if line and not line.endswith("= None")]


def _place(model: nn.Module, modules: Mapping[str, nn.Module | None]) -> dict[str, nn.Module | None]:
    """Put `modules` at their paths (None: nothing); returns what was there."""
    before: dict[str, nn.Module | None] = {}
    for path, module in modules.items():
        owner, _, leaf = path.rpartition(".")
        home = model.get_submodule(owner)
        before[path] = home._modules.get(leaf)
        if module is None:
            del home._modules[leaf]
        else:
            home.add_module(leaf, module.train(model.training))
    return before


def _trace(model: nn.Module, name: str) -> tuple[fx.Graph, dict[str, nn.Module]]:
    """The graph in the present mode, and the modules it needs by path, both with paths as seen from `model`."""
    root, tracer = Traced(model).train(model.training), Tracer()
    try:
        with frozen(model):
            graph = tracer.trace(root)
    except Refused as error:
        where = error.owner.removeprefix("model").removeprefix(".")
        at = f"in {where} ({type(model.get_submodule(where)).__name__}) " if where else ""
        raise UserError(f"{name} cannot be made visible without computing something else: {at}{error}") from error
    except Exception as error:  # whatever a forward may run into when it is given a stand-in for a tensor
        where = tracer.owners[-1] if tracer.owners else "model"
        kind = type(root.get_submodule(where)).__name__
        raise UserError(
            f"{name} cannot be traced, so its sums and products would stay invisible: in {where} ({kind}): {error}. "
            "Choose another model, or write the residual sums of this one with lpt.ops; if it is an `if`, `assert` or "
            "`len` on a tensor or its shape, move that out of this forward, or take visible_, which goes by parts"
        ) from error
    if not isinstance(graph.output_node().args[0], fx.Node):
        kind = type(graph.output_node().args[0]).__name__.removeprefix("immutable_")
        raise UserError(f"{name} returns a {kind}, not one tensor: it is no classifier")
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            if not node.target.startswith("model."):
                raise UserError(f"{name} makes a tensor out of nothing in its forward: register it as a buffer there")
            node.target = node.target.removeprefix("model.")
    return graph, {path.removeprefix("model."): module for path, module in tracer.placed.items()}
