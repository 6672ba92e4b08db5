"""Kernels as operators of torch: what a graph of torch.compile calls, and does not look into.

Within a graph a rounding would be fused with what surrounds it, whose loops do not suit its blocks, and compiled anew
in each place; a kernel takes one pass over memory, and is compiled once.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .kernels import Kernel
from .shelf import describe

_OPERATORS = torch.library.Library("lpt", "FRAGMENT")  # torch removes them with it
LIKE_FIRST = "(Tensor x, Tensor? key) -> Tensor"


def operator(kernel: Kernel) -> str:
    """The name, in `torch.ops.lpt`, of a kernel on a CPU that takes (x, key) and returns a new tensor like x.

    It is a digest of all that decides the kernel's values, since torch keeps graphs on disk and tells them apart by
    such names. Kernels that are told apart by nothing, of one folder, are one operator, which lives as long as the
    process.

    Raises:
        Unkeyable: a constant that cannot be told apart from another of its kind.
    """
    library = kernel.library
    told = [describe(kernel.function), describe(kernel.constants), str(kernel.fixed), str(library.shelf.folder)]
    told.append(f"{library.wait} {library.ahead}")
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()
    name = f"{kernel.function.__name__}_{digest[:20]}"
    if not hasattr(torch.ops.lpt, name):

        def run(x: Tensor, key: Tensor | None) -> Tensor:
            made: Tensor = kernel(x.contiguous(), key)  # compiled code asks nothing about how its arguments lie
            return made

        _OPERATORS.define(name + LIKE_FIRST)
        _OPERATORS.impl(name, run, "CPU")
        torch.library.register_fake(f"lpt::{name}", _like, lib=_OPERATORS)
    return name


def _like(x: Tensor, key: Tensor | None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)
