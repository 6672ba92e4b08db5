"""Chains of small operations as one pass over memory: compiled ahead of time from their one definition.

    library = Library()                                # code on disk, shared by all runs and processes
    rounded = library.kernel(at_scale, format)         # the definition is at_scale(format, x, key, scale)
    q = rounded(x, None, scale)                        # eager until its code is there, compiled from then on

Eager and compiled code give the same bits, so a run may change over at any moment: a child process compiles
(`compiling`) while the run goes on. Compiled code is called without guards, since a variant is chosen by all that it
was compiled for: dtypes, device, which sizes are 1, and whether threads share the work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import compiling
from .fused import fused
from .shelf import Shelf, Unkeyable, load

ROW = 1024  # elements that a block of a GPU's threads takes at once
MANY = 10_000  # sizes that a kernel remembers
WORTH = 2000  # eager passes, some thirty steps of a small network, before a child process is started
PARALLEL = 1 << 15  # elements from which on several threads are faster than one
Code = Callable[[list[Tensor]], list[Tensor]]  # compiled code: what it is given, less the Nones
Fixed = tuple[int | tuple[int, int], ...]


class Library:
    """Kernels, their code on disk, and the child process that compiles what is missing.

    Args:
        folder: of the compiled code; the user's cache folder if None (`LPT_CACHE`, or that of the system).
        wait: wait for code that is being compiled; or else compute eagerly until it is there.
        ahead: compile ahead of time; or else by torch.compile, in this process, as it is always done for a GPU.
    """

    def __init__(self, folder: Path | None = None, wait: bool = False, ahead: bool = True) -> None:
        self.shelf = Shelf(folder)
        self.wait, self.ahead = wait, ahead
        self.loaded: dict[str, Code] = {}  # by key
        self.failed: dict[str, str] = {}  # key -> why there is no code
        self._kernels: dict[tuple[Any, ...], Kernel] = {}
        self._missing: set[str] = set()  # what the shelf did not have
        self._asked: set[str] = set()
        self._eager = 0  # passes made for want of code
        self._answered = threading.Condition()
        self._compiler: compiling.Compiler | None = None

    def kernel(self, function: Callable[..., Any], *constants: Any, fixed: Fixed = ()) -> Kernel:
        """The kernel of `function(*constants, *tensors)`, one for each function and constants.

        Args:
            function: of a module, so that the child process finds it. It takes contiguous tensors or None behind
                the constants, returns a tensor, several or none, and may write into those that it takes.
            constants: numbers, strings, formats, schemes: whatever `shelf.describe` can tell apart.
            fixed: positions of tensors whose sizes are compiled in, such as tables; or (position, dimension), where
                it is the size of one dimension.
        """
        own = (function, *((type(constant), constant) for constant in constants))
        if own not in self._kernels:
            self._kernels[own] = Kernel(self, function, constants, fixed)
        return self._kernels[own]

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy of a model has a library of its own, over the same folder."""
        return Library, (self.shelf.folder, self.wait, self.ahead)

    @property
    def why_not(self) -> str:
        """Why something is computed eagerly for good; "" if nothing is."""
        return next(iter(self.failed.values()), "")

    def find(self, key: str, job: Callable[[], compiling.Job]) -> Code | None:
        """The code of `key`; None as long as there is none. What is missing is asked for once.

        Without `wait` not before some use of eager code has shown that there is a run worth compiling for.
        """
        if key not in self._missing and key not in self.loaded:
            path = self.shelf.find(key)
            if path is None:
                self._missing.add(key)
            else:
                self._load(key, path)
        if key in self._missing and key not in self._asked:
            self._eager += 1
            if self.wait or self._eager > WORTH:
                self._asked.add(key)
                self._ask(job())
        if self.wait:
            with self._answered:
                self._answered.wait_for(lambda: key in self.loaded or key in self.failed)
        return self.loaded.get(key)

    def _ask(self, job: compiling.Job) -> None:
        if self._compiler is None:
            self._compiler = compiling.Compiler(self._answer, patient=not self.wait)
        self._compiler.ask(job)

    def _answer(self, key: str, why_not: str) -> None:
        """Called by the compiler's thread when a job is done."""
        path = None if why_not else self.shelf.find(key)
        if path is None:
            with self._answered:
                self.failed[key] = why_not or "the compiled code is damaged"
                self._answered.notify_all()
        else:
            self._load(key, path)

    def _load(self, key: str, path: Path) -> None:
        try:
            code: Code | None = load(path)
        except Exception as error:  # whatever a broken library raises
            code, why_not = None, str(error).splitlines()[0]
        with self._answered:
            if code is None:
                self.failed[key] = why_not
            else:
                self.loaded[key] = code
            self._answered.notify_all()


def parallel(elements: int) -> bool:
    """Whether threads share the work on so many elements: a variant of its own."""
    return elements >= PARALLEL and torch.get_num_threads() > 1


def flat(x: Tensor) -> Tensor | None:
    """The memory of x as it lies, a view [n]; None if it has gaps, or holds one value for several elements."""
    if x.is_contiguous():
        return x.view(-1)
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.as_strided((x.numel(),), (1,))
    dense = x.numel() > 0 and torch.empty_like(x, device="meta").stride() == x.stride()
    return x.as_strided((x.numel(),), (1,)) if dense else None


class Kernel:
    """One function over some constants, as the library has it for each variant of its arguments."""

    def __init__(
        self, library: Library, function: Callable[..., Any], constants: tuple[Any, ...], fixed: Fixed = ()
    ) -> None:
        self.library, self.function, self.constants, self.fixed = library, function, constants, fixed
        self._known: dict[tuple[Any, ...], Code] = {}  # by all sizes and dtypes: a short cut
        self._codes: dict[tuple[Any, ...], Code | None] = {}
        self._keys: dict[tuple[Any, ...], str] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Kernel, (self.library, self.function, self.constants, self.fixed)

    def __call__(self, *args: Tensor | None) -> Any:
        """`function(*constants, *args)`; the first is a tensor, all are contiguous and on its device."""
        alike = _alike(args)
        code = self._known.get(alike)
        if code is None:
            code = self._code(args)
            if code is None:
                return self.function(*self.constants, *args)
            if len(self._known) == MANY:
                self._known.clear()
            self._known[alike] = code
        found = code([arg for arg in args if arg is not None])
        return found[0] if len(found) == 1 else tuple(found) or None

    def ready(self, *args: Tensor | None) -> Code | None:
        """The code that a call with such arguments has used, if any; it serves all sizes that `parallel` puts alike."""
        return self._known.get(_alike(args))

    def _code(self, args: tuple[Any, ...]) -> Code | None:
        """The code for arguments of this kind, whatever their sizes."""
        elements = args[0].numel()
        if elements < 2:  # (no elements would take the sizes of another variant; one is a variant that nobody needs)
            return None
        variant: list[Any] = [parallel(elements)]
        for arg in args:
            if arg is None:
                variant.append(None)
            else:
                variant += (arg.dtype, arg.device, *[n == 1 for n in arg.shape])
        for i in self.fixed:
            variant.append(args[i].shape if isinstance(i, int) else args[i[0]].shape[i[1]])
        return self._codes.get(tuple(variant)) or self._find(tuple(variant), args)

    def _find(self, variant: tuple[Any, ...], args: tuple[Tensor | None, ...]) -> Code | None:
        if variant in self._codes:
            return None  # known to stay eager
        device = args[0].device.type  # type: ignore[union-attr]
        if device != "cpu" or not self.library.ahead:
            self._codes[variant] = self._by_torch(args) if device in ("cpu", "cuda") else None
            return self._codes[variant]
        if variant not in self._keys:
            try:
                key = self.library.shelf.key(self.function, self.constants, variant)
            except Unkeyable as error:
                self.library.failed[str(error)] = str(error)
                self._codes[variant] = None
                return None
            self._keys[variant] = key
        key = self._keys[variant]
        code = self.library.find(key, lambda: self._job(key, variant[0], args))
        if code is None:
            if key in self.library.failed:
                self._codes[variant] = None
            return None
        self._codes[variant] = code
        return code

    def _by_torch(self, like: tuple[Tensor | None, ...]) -> Code:
        """By torch.compile. (Ahead-of-time code has not been tried on a GPU.)"""
        function, constants = self.function, self.constants

        def definition(*args: Tensor | None) -> Any:
            return function(*constants, *args)

        once = fused(definition, ROW)
        given = [arg is not None for arg in like]

        def code(tensors: list[Tensor]) -> list[Tensor]:
            rest = iter(tensors)
            found = once(*[next(rest) if there else None for there in given])
            return [] if found is None else list(found) if isinstance(found, tuple) else [found]

        return code

    def _job(self, key: str, parallel: bool, args: tuple[Tensor | None, ...]) -> compiling.Job:
        tensors = tuple(None if arg is None else (arg.dtype, tuple(arg.shape)) for arg in args)
        folder = self.library.shelf.folder
        return compiling.Job(key, folder, self.function, self.constants, tensors, self.fixed, "cpu", parallel)


def _alike(args: tuple[Any, ...]) -> tuple[Any, ...]:
    kinds = [arg if arg is None else (arg.dtype, arg.shape) for arg in args]
    return (args[0].device, torch.get_num_threads(), *kinds)
