"""The process's heap: freed memory is kept for the next step, and can be given back to the system."""

import ctypes
import os
import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc, malloc.h
LARGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}  # torch reads it once, where the process's first tensor is made


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, so that a step's tensors need no new pages from the system.

    By default glibc gives each large block back and takes a fresh one for the next tensor, and touching fresh pages
    can cost several times what the computation costs. But what is kept falls to pieces, into which a larger tensor
    does not fit: the process may come to hold several times what its tensors need, until `give_back`. What is fresh
    comes in large pages (2 MB) where torch makes tensors of that size and has made none before; a variable of the
    environment that says otherwise stands.

    Returns:
        Whether it took effect: only glibc is known to understand (Linux; not musl, macOS or Windows).
    """
    for name, value in LARGE_PAGES.items():
        os.environ.setdefault(name, value)
    mallopt = _of_the_library("mallopt")
    return mallopt is not None and all(mallopt(*setting) for setting in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1)))


def give_back() -> bool:
    """Give all pages that hold nothing back to the system, wherever they lie. Returns whether there were any."""
    trim = _of_the_library("malloc_trim")
    return trim is not None and bool(trim(0))


def _of_the_library(name: str) -> Any:
    """A function of the C library; None where it has none of this name."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None
