"""The process's heap: freed memory is kept for the next step, or given back to the system."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # glibc, malloc.h
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1}
_GIVE_BACK = {_MMAP_MAX: 1 << 16, _TRIM_THRESHOLD: 1 << 17, _MMAP_THRESHOLD: 1 << 20}


def keep_freed_memory(keep: bool = True) -> bool:
    """Let the C library keep what is freed, so that a step's tensors need no new pages from the system.

    By default glibc gives each large block back and takes a fresh one for the next tensor, and touching fresh pages
    can cost several times what the computation costs. But what is kept falls to pieces, into which a larger tensor
    does not fit: the process may come to hold several times what its tensors need.

    Args:
        keep: False gives all blocks of a megabyte or more back, so that the process holds little but its tensors.
            (By default glibc keeps what is below a limit that grows up to 32 megabytes.)

    Returns:
        Whether it took effect: only glibc is known to understand (Linux; not musl, macOS or Windows).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(mallopt(name, value) for name, value in (_KEEP if keep else _GIVE_BACK).items())
