"""What PyTorch dispatches for a matrix product or a convolution, and where its operands stand."""

from typing import Any

import torch
from torch.utils.module_tracker import ModuleTracker

_aten = torch.ops.aten
# Positions of the operands of each product; the rest are biases and options.
OPERANDS: dict[Any, tuple[str | None, ...]] = {
    _aten.convolution: ("input", "weight"),
    _aten.convolution_backward: ("error", "input", "weight"),
    _aten.mm: ("left", "right"),
    _aten.bmm: ("left", "right"),
    _aten.mv: ("left", "right"),
    _aten.dot: ("left", "right"),
    _aten.addmm: (None, "left", "right"),
    _aten.baddbmm: (None, "left", "right"),
    _aten.addmv: (None, "left", "right"),
}
# What puts values elsewhere and leaves them as they are; views do, too.
_MOVES = {
    _aten.clone, _aten._to_copy, _aten.copy_, _aten.cat, _aten.stack, _aten.constant_pad_nd, _aten.index_select,
    _aten.index, _aten.relu, _aten.repeat, _aten._unsafe_view, _aten._reshape_copy, _aten.max_pool2d_with_indices,
}  # fmt: skip
# Kernels that hold products inside: what they multiply cannot be seen, so they are never on a grid.
_FUSED = ("mkldnn_rnn", "_cudnn_rnn", "_thnn_fused", "_scaled_dot_product", "_flash_attention", "_native_multi_head")


def module_running(tracker: ModuleTracker, ran: dict[int, str], backward: bool) -> str:
    """The module whose forward is running; in the backward pass, the one that ran what is differentiated.

    `ran` keeps, by autograd's sequence number, which module ran what.
    """
    if backward:
        node = torch._C._current_autograd_node()
        return ran.get(node._sequence_nr(), "?") if node is not None else "?"
    # Names begin with the root's class; "Global" is always there, and longer than "Net.a".
    name = max(tracker.parents - {"Global"}, key=len, default="").partition(".")[2]
    ran[torch.autograd._get_sequence_nr() - 1] = name
    return name


def hides_products(packet: Any) -> bool:
    """Is this one of torch's kernels with products inside?"""
    return any(fused in str(packet) for fused in _FUSED)


def moves(func: Any) -> bool:
    """Does this operator's result hold values of its inputs (or zeros), elsewhere or in another shape?"""
    return func.overloadpacket in _MOVES or any(r.alias_info is not None for r in func._schema.returns)
