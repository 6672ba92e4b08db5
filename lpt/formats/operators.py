"""Passes over memory as operators of torch: what a graph of torch.compile calls, and does not look into.

Within a graph a rounding would be fused with what surrounds it, whose loops do not suit its blocks, and compiled anew
in each place; an operator takes one pass over memory by a kernel that is compiled once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch

from .kernels import Library
from .shelf import describe

_OPERATORS = torch.library.Library("lpt", "FRAGMENT")  # torch removes them with it


def operator(
    name: str, told: Any, library: Library, schema: str, run: Callable[..., Any], like: Callable[..., Any]
) -> str:
    """The name, in `torch.ops.lpt`, of an operator on a CPU, whose arguments may lie in memory as they like.

    It has a digest of all that decides its values, since torch keeps graphs on disk and tells them apart by such names.
    What is told apart by nothing is one operator, which lives as long as the process.

    Args:
        name: what it begins with.
        told: what decides its values.
        library: whose kernels it calls.
        schema: of its arguments and result.
        run, like: compute its result, and one that lies as that does.

    Raises:
        Unkeyable: something in `told` cannot be told apart from another of its kind.
    """
    keys = (describe(told), str(library.shelf.folder), f"{library.wait} {library.ahead}")
    name = f"{name}_{hashlib.sha256(repr(keys).encode()).hexdigest()[:20]}"
    if not hasattr(torch.ops.lpt, name):
        define(name, schema, run, like)
    return name


def define(name: str, schema: str, run: Callable[..., Any], like: Callable[..., Any]) -> None:
    """An operator on a CPU, once for all; arguments as those of `operator`."""
    _OPERATORS.define(name + schema, tags=(torch.Tag.flexible_layout,))
    _OPERATORS.impl(name, run, "CPU")
    torch.library.register_fake(f"lpt::{name}", like, lib=_OPERATORS)
