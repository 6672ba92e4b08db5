"""Chains of small operations made into one pass over memory, by torch.compile, from the same definition."""

import types
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def fused(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, compiled at its first call for tensors of any size: the same bits, one pass over memory.

    Compilations are counted by code object and given up after a few; a copy of the code is counted by itself.
    """
    own = types.FunctionType(
        function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__,  # type: ignore[attr-defined]
        function.__closure__,  # type: ignore[attr-defined]
    )  # fmt: skip
    return torch.compile(own, dynamic=True, fullgraph=True)


def why_not_fused() -> str:
    """Why torch.compile does not work on this machine (no C++ compiler, for example); "" if it does."""
    try:
        fused(lambda x: x + 1)(torch.zeros(2))
    except Exception as error:  # whatever a broken tool chain raises
        return str(error).strip().splitlines()[0]
    return ""
