"""Chains of small operations made into one pass over memory, by torch.compile, from the same definition."""

import types
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


def fused(function: Callable[..., R], row: int | None = None) -> Callable[..., R]:
    """`function`, compiled at its first call for tensors of any size: the same bits, one pass over memory.

    Only the sizes of tensor arguments are variables of the compiled code; a format's numbers are constants of it, and
    so is the length of rows, if it is `row`. (With dynamic=True they would be variables too, and the code some ten
    times slower.) Compilations are counted by code object and given up after a few, so each function gets a copy of
    its own.
    """
    own = types.FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__,  # type: ignore[attr-defined]
        function.__closure__,  # type: ignore[attr-defined]
    )  # fmt: skip
    compiled = torch.compile(own, dynamic=False, fullgraph=True)

    def run(*args: Any) -> R:
        for arg in args:
            if isinstance(arg, Tensor):
                for dim, size in enumerate(arg.shape):
                    if size > 1 and not (dim > 0 and size == row):
                        torch._dynamo.maybe_mark_dynamic(arg, dim)
        return compiled(*args)

    return run


def why_not_fused() -> str:
    """Why torch.compile does not work on this machine (no C++ compiler, for example); "" if it does."""
    try:
        fused(lambda x: x + 1)(torch.zeros(2))
    except Exception as error:  # whatever a broken tool chain raises
        return str(error).strip().splitlines()[0]
    return ""
