"""The process's heap, tuned for training: memory that is freed is kept for the next step."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc, malloc.h


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, so that a step's tensors need no new pages from the system.

    By default glibc gives each large block back and takes a fresh one for the next tensor, and touching fresh pages
    can cost several times what the computation costs. The process's peak stays; it just does not shrink between.

    Returns:
        Whether it took effect: only glibc is known to understand (Linux; not musl, macOS or Windows).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
