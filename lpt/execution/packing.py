"""`memory=packed`: what autograd keeps for the backward pass, as codes of one byte where it lies on a format's grid.

Behind an Edge every activation A is a value of its format at a known scale, so that a byte holds what float32 spends
four on. Nothing is lost: decoded, the values are the same (a zero loses its sign). Whatever else the graph keeps stays
as it is: the network's input and its sum of two values, values of formats wider than a byte or without a code to spare,
results of functions that are no modules, indices and masks.

Codes hold no infinity. On a CPU a tensor with an infinity or a nan stays as it is. A GPU would have to wait to know, so
there all of these take the code of nan, and come back as the one kind that the tensor holds, or as nan if it holds
more than one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..dataflow import Flow
from ..dataflow.roles import keeps_grid
from ..formats import Format
from ..formats.kernels import Library
from .codes import decode, encode, fits_a_byte, mark_of
from .heap import give_back

FREED = 1 << 29  # bytes of values that are freed for codes, or decoded for a short while, before the heap is tidied


class Packing:
    """While the model of `flow` runs forward with gradients, the graph keeps codes; it decodes them as they are used.

    Tensors that share memory (an activation, its views, what a ReLU made of it in place) share their codes.

    Args:
        flow: the handle of the model's data flow; `remove` takes the hooks off again.
    """

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.saved_bytes = 0  # that the graph kept in the last forward pass, parameters apart
        self._heap = _Heap()
        self._parameters: set[StorageWeakRef] = set()
        self._grids: dict[StorageWeakRef, _Grid] = {}
        self._kept: dict[StorageWeakRef, list[_Kept]] = {}
        self._hooks: Any = None
        root = flow.model
        self._handles: list[Any] = [
            root.register_forward_pre_hook(self._begin), root.register_forward_hook(self._end, always_call=True)
        ]  # fmt: skip
        for module in root.modules():
            if keeps_grid(module):
                self._handles.append(module.register_forward_pre_hook(self._may_change))
                self._handles.append(module.register_forward_hook(self._still_on_grid))

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    # -- around the forward pass -----------------------------------------------------------------------------------

    def _begin(self, module: nn.Module, args: Any) -> None:
        if self._hooks is None and torch.is_grad_enabled():
            self._parameters = {_memory(p) for p in module.parameters()}
            self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _Kept.unpack)
            self._hooks.__enter__()
            self.flow.mode.made = self._made

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._hooks is None:
            return
        self._hooks.__exit__(None, None, None)
        self._hooks = self.flow.mode.made = None
        self.saved_bytes = sum(map(_bytes, self._kept.values()))
        self._grids.clear()
        self._kept.clear()

    # -- which memory lies on which grid ---------------------------------------------------------------------------

    def _made(self, q: Tensor, format: Format, scale: Tensor) -> None:
        """An Edge has made `q`, values of `format` at `scale`; told by its quantizer."""
        if fits_a_byte(format) and q.dtype in (torch.float32, torch.bfloat16):
            self._register(q, _Grid(format, scale.clone(), q.dtype, q._version, self.flow.mode.kernels))

    def _register(self, q: Tensor, grid: _Grid) -> None:
        memory = _memory(q)
        self._grids[memory] = grid
        for kept in self._kept.get(memory, ()):  # kept before its grid was known: by a ReLU, say, its own result
            kept.pack(grid)

    def _may_change(self, module: nn.Module, args: Any) -> None:
        grid = self._grid_of(args[0]) if args and isinstance(args[0], Tensor) else None
        if grid is not None and getattr(module, "inplace", False):
            grid.version = grid.codes = None
            grid.plain = False

    def _still_on_grid(self, module: nn.Module, args: Any, output: Any) -> None:
        grid = self._grid_of(args[0]) if args and isinstance(args[0], Tensor) else None
        if grid is None or not isinstance(output, Tensor):
            return
        if _memory(output) == _memory(args[0]):
            grid.version = output._version
        else:
            self._register(output, _Grid(grid.format, grid.scale, grid.dtype, output._version, grid.kernels))

    def _grid_of(self, x: Tensor) -> _Grid | None:
        grid = self._grids.get(_memory(x))
        return grid if grid is not None and grid.version in (None, x._version) else None

    # -- what autograd calls ---------------------------------------------------------------------------------------

    def _pack(self, x: Tensor) -> _Kept:
        memory, kept = _memory(x), _Kept(x, self._heap)
        if x.layout != torch.strided or memory in self._parameters:
            return kept
        if (grid := self._grid_of(x)) is not None:
            kept.pack(grid)
        self._kept.setdefault(memory, []).append(kept)
        return kept


class _Grid:
    """The memory that holds values of `format` at `scale`, as long as its version is `version` (None: any).

    `kernels`: codes are made and read by compiled code.
    """

    def __init__(
        self, format: Format, scale: Tensor, dtype: torch.dtype, version: int | None, kernels: Library | None
    ) -> None:
        self.format, self.scale, self.dtype, self.version, self.kernels = format, scale, dtype, version, kernels
        self.codes: Tensor | None = None  # of the whole memory; made when first needed
        self.mark: Tensor | None = None  # what the code of nan stands for
        self.plain = False  # codes would not hold it

    def encode(self, x: Tensor) -> Tensor | None:
        """The codes of x's whole memory; None if it holds what codes do not."""
        if self.codes is None and not self.plain:
            whole = x.as_strided((x.untyped_storage().nbytes() // x.element_size(),), (1,), 0)
            codes, least, most = encode(self, whole)
            self.mark = mark_of(least, most)
            self.plain = x.device.type == "cpu" and self.mark.tolist() != 0
            self.codes = None if self.plain else codes
        return self.codes


class _Kept:
    """One tensor that the graph keeps: itself, or the codes of its memory and its place in there."""

    def __init__(self, x: Tensor, heap: _Heap) -> None:
        self.heap = heap
        self.tensor: Tensor | None = x.detach()
        self.version = x._version
        self.place = (x.shape, x.stride(), x.storage_offset()) if x.layout == torch.strided else None
        self.grid: _Grid | None = None
        self.codes: Tensor | None = None

    def pack(self, grid: _Grid) -> None:
        if self.tensor is not None and grid.version in (None, self.version) and self.tensor.dtype == grid.dtype:
            codes = grid.encode(self.tensor)
            if codes is not None:
                self.heap.turned_over(self.tensor)
                self.codes, self.grid, self.tensor = codes, grid, None

    def unpack(self) -> Tensor:
        if self.tensor is not None:
            if self.tensor._version != self.version:  # autograd checks this only for what no hook has packed
                raise RuntimeError(
                    "a tensor that the backward pass needs was changed in place after it was kept: "
                    f"{tuple(self.tensor.shape)}, version {self.version} then, {self.tensor._version} now; use an "
                    "operation that is not in place"
                )
            return self.tensor
        assert self.codes is not None and self.grid is not None and self.place is not None
        values = decode(self.grid, self.codes)
        self.heap.turned_over(values)
        return values.as_strided(*self.place)


class _Heap:
    """Values come and go between codes that stay, and what they leave is too small for the next ones: in between, it
    goes back to the system. Each time costs fresh pages, so it is done when much has come and gone."""

    def __init__(self) -> None:
        self.freed = 0  # bytes since the last time

    def turned_over(self, x: Tensor) -> None:
        self.freed += x.nbytes if x.is_cpu else 0
        if self.freed > FREED:
            self.freed = 0
            give_back()


def _memory(x: Tensor) -> StorageWeakRef:
    return StorageWeakRef(x.untyped_storage())


def _bytes(same: list[_Kept]) -> int:
    """Of what is kept of one memory: itself once, if anything needs it, and its codes."""
    plain = max((kept.tensor.untyped_storage().nbytes() for kept in same if kept.tensor is not None), default=0)
    return plain + sum({id(k.codes): k.codes.nbytes for k in same if k.codes is not None}.values())
