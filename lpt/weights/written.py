"""Which elements of a weight others have written, told from the values that it had and has."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from ..formats import Format

_compare = None if sys.platform == "win32" else ctypes.CDLL(None).memcmp  # the C library's
if _compare is not None:
    _compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


def unchanged(now: Tensor, before: Tensor) -> bool:
    """Whether a weight holds the values that it held. (On a CPU nans, too, are the same if their bytes are.)

    Every weight is asked twice a step, and `torch.equal` alone takes up to eight times as long.
    """
    if _compare is not None and now.is_cpu and now.dtype == before.dtype and now.shape == before.shape:
        dense = now.is_contiguous() or now.is_contiguous(memory_format=torch.channels_last)
        if dense and now.stride() == before.stride():
            nbytes = now.numel() * now.element_size()
            if _compare(now.data_ptr(), before.data_ptr(), nbytes) == 0:
                return True
    return torch.equal(now, before)


def written(
    now: Tensor, before: Tensor, master: Tensor, scale: Tensor, scale_of: Callable[[Tensor], Tensor], format: Format
) -> Tensor:  # fmt: skip
    """Whether each element was written, bool.

    One that changed was. One that holds what it held may have been, too, where another one of its scale was given that
    same value: zero among zeros, for one, whose small master would come back. It is taken as written if all the
    unchanged elements of its scale may have been, so that the values are new altogether, or if its scale moves and
    would lift it above that value.

    Args:
        now, before, master: the values, those that they had, and the master of these; all seen by `channels.view`.
        scale: of the grid of `before`.
        scale_of: values -> their scale.
    """
    changed = now != before
    rows = format.places(scale, now)
    maybe = _among(now, rows, changed)
    if not maybe.any():
        return changed
    kept = torch.zeros(rows.numel(), dtype=torch.bool, device=now.device)  # whether a row has one that nobody wrote
    kept[rows[~changed & ~maybe]] = True
    whole = changed | (maybe & ~kept[rows])
    values = torch.where(whole, now.to(master.dtype), master)
    moved = scale_of(values)
    lifted = format.round(values, scale=moved).abs() > now.abs()
    return whole | (maybe & lifted & format.moved(moved, scale, now))


def _among(values: Tensor, rows: Tensor, chosen: Tensor) -> Tensor:
    """Whether each value is one of the chosen ones of its row, and not chosen itself.

    Values are compared in float32, which holds those of every format.
    """
    keys = (values.float() + 0.0).contiguous().view(torch.int32).long() + (rows.contiguous() << 33)  # no -0
    given, others = keys[chosen], keys[~chosen]
    few, many = (given, others) if len(given) < len(others) else (others, given)
    few = few.unique()  # to sort the fewer is cheap
    found = torch.zeros_like(chosen)
    if len(few):
        shared = torch.zeros_like(few, dtype=torch.bool)
        place, there = _look_up(many, few)
        shared[place[there]] = True
        both = few[shared]
        if len(both):
            found[~chosen] = _look_up(others, both)[1]
    return found


def _look_up(keys: Tensor, ascending: Tensor) -> tuple[Tensor, Tensor]:
    """Where each key is in a list, and whether it is there."""
    place = torch.searchsorted(ascending, keys).clamp_(max=len(ascending) - 1)
    return place, ascending[place] == keys
