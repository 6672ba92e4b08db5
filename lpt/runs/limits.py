"""What the machine does not have: memory and threads that a run asks for are told, foreseen where they can be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError

THREADS = 1024
COPIES = 3  # of the weights in a training step, at least: they, their gradients, and masters or momenta
_REFUSALS = (
    "can't allocate memory", "cannot allocate memory", "out of memory", "not enough memory", "unable to allocate",
    "invalid buffer size", "storage size calculation overflowed", "integer multiplication overflow",
    "can't start new thread",
)  # fmt: skip


def refused(error: BaseException) -> bool:
    """Whether it says that there is no memory."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _REFUSALS)


def memory() -> int:
    """Bytes that this process may have at the most: of the machine, or of its control group."""
    bounds = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else []
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            bounds.append(int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):
            continue
    return min(bounds, default=2**63)


def check_memory(make: Callable[[], Any]) -> None:
    """Raise if the module that `make` makes has more weights than memory can hold in training.

    It is made without memory first (on torch's device "meta"); a module that cannot be made so is not looked at.

    Raises:
        UserError: it has.
    """
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        try:
            weights = sum(p.numel() * p.element_size() for p in make().parameters())
        except (RuntimeError, OverflowError, MemoryError) as error:
            if not refused(error) and not isinstance(error, OverflowError):
                return
            weights = 2**62
        except Exception:
            return  # what is wrong is told where it is made
    if COPIES * weights > (have := memory()):
        raise UserError(
            f"model: its weights are {weights / 2**30:,.0f} GiB, and training takes {COPIES} times as much; this "
            f"machine has {have / 2**30:,.0f} GiB: give a smaller model (model.width=, model.depth=)"
        )


def check_threads() -> None:
    """Raise if more threads are asked for than any machine has cores.

    Raises:
        UserError: there are.
    """
    if (threads := torch.get_num_threads()) > THREADS:
        raise UserError(
            f"OMP_NUM_THREADS={threads}: the system does not give so many threads; give a number up to {THREADS}, as a "
            f"rule that of the cores, {os.cpu_count()}"
        )
