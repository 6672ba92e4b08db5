"""Chains of small operations made into one pass over memory, by torch.compile, from the same definition."""

import types
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")
GIVEN_UP = (
    "torch gave up compiling a rounding for ever new cases, so it runs eagerly: slower, but the same values "
    "(torch._dynamo.config.recompile_limit is how many it takes)"
)


def fused(function: Callable[..., R], row: int | None = None) -> Callable[..., R]:
    """`function`, compiled at its first call for tensors of any size: the same bits, one pass over memory.

    Only the sizes of tensor arguments are variables of the compiled code; a format's numbers are constants of it, and
    so is the length of rows, if it is `row`. (With dynamic=True they would be variables too, and the code some ten
    times slower.)

    torch counts compilations by code object and gives up after eight, in a whole process. So each kind of arguments
    (dtype, device, a given key or none, numbers, modes) gets a copy of the code of its own; should one of those
    still be given up, it runs eagerly from then on, and a warning says so.
    """
    compiled: dict[Any, Callable[..., R]] = {}

    def run(*args: Any) -> R:
        kind: list[Any] = [torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")]
        kind += torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        for arg in args:
            if not isinstance(arg, Tensor):
                kind.append(arg)
                continue
            kind += arg.dtype, arg.device, arg.requires_grad
            for dim, size in enumerate(arg.shape):
                if size > 1 and not (dim > 0 and size == row):
                    torch._dynamo.maybe_mark_dynamic(arg, dim)
                    size = -1
                kind.append(size)
        key = tuple(kind)
        if key not in compiled:
            compiled[key] = torch.compile(_copy(function), dynamic=False, fullgraph=True)
        try:
            return compiled[key](*args)
        except torch._dynamo.exc.FailOnRecompileLimitHit:  # raised before anything has run
            warnings.warn(GIVEN_UP, stacklevel=2)
            compiled[key] = function
            return function(*args)

    return run


def _copy(function: Callable[..., R]) -> Callable[..., R]:
    """The same function with a code object of its own."""
    of: Any = function
    code = of.__code__.replace()
    return types.FunctionType(code, of.__globals__, of.__name__, of.__defaults__, of.__closure__)


def why_not_fused() -> str:
    """Why torch.compile does not work on this machine (no C++ compiler, for example); "" if it does."""
    try:
        fused(lambda x: x + 1)(torch.zeros(2))
    except Exception as error:  # whatever a broken tool chain raises
        return str(error).strip().splitlines()[0]
    return ""
