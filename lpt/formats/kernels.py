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
from .shelf import Shelf, Unkeyable

PARALLEL = 1 << 15  # elements from which on several threads are faster than one
Run = Callable[[tuple[Any, ...]], Tensor]


class Library:
    """Kernels, their code on disk, and the child process that compiles what is missing.

    Args:
        folder: of the compiled code; the user's cache folder if None (`LPT_CACHE`, or that of the system).
        wait: wait for code that is being compiled; or else compute eagerly until it is there.
    """

    def __init__(self, folder: Path | None = None, wait: bool = False) -> None:
        self.shelf = Shelf(folder)
        self.wait = wait
        self.loaded: dict[str, Any] = {}  # key -> a loader with `run`
        self.failed: dict[str, str] = {}  # key -> why there is no code
        self._kernels: dict[tuple[Any, ...], Kernel] = {}
        self._asked: set[str] = set()
        self._answered = threading.Condition()
        self._compiler: compiling.Compiler | None = None

    def kernel(self, function: Callable[..., Tensor], *constants: Any) -> Kernel:
        """The kernel of `function(*constants, *tensors)`, one for each function and constants.

        Args:
            function: of a module, so that the child process finds it. It takes contiguous tensors or None behind
                the constants, returns a tensor, and may write into those that it takes.
            constants: numbers, strings, formats, schemes: whatever `shelf.describe` can tell apart.
        """
        own = (function, *((type(constant), constant) for constant in constants))
        if own not in self._kernels:
            self._kernels[own] = Kernel(self, function, constants)
        return self._kernels[own]

    @property
    def why_not(self) -> str:
        """Why something is computed eagerly for good; "" if nothing is."""
        return next(iter(self.failed.values()), "")

    def find(self, key: str, job: Callable[[], compiling.Job]) -> Any:
        """The loader of `key`; None as long as there is none. What is missing is asked for once."""
        if key not in self._asked:
            self._asked.add(key)
            path = self.shelf.find(key)
            if path is None:
                self._ask(job())
            else:
                self._load(key, path)
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
            loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)  # type: ignore[attr-defined]
        except Exception as error:  # whatever a broken package raises
            loader, why_not = None, str(error).splitlines()[0]
        with self._answered:
            if loader is None:
                self.failed[key] = why_not
            else:
                self.loaded[key] = loader
            self._answered.notify_all()


class Kernel:
    """One function over some constants, as the library has it for each variant of its arguments."""

    def __init__(self, library: Library, function: Callable[..., Tensor], constants: tuple[Any, ...]) -> None:
        self.library, self.function, self.constants = library, function, constants
        self._runs: dict[tuple[Any, ...], Run | None] = {}
        self._keys: dict[tuple[Any, ...], str] = {}

    def __call__(self, *args: Tensor | None) -> Tensor:
        """`function(*constants, *args)`; tensors are contiguous and on one device."""
        variant: list[Any] = [torch.get_num_threads() > 1 and args[0].numel() >= PARALLEL]  # type: ignore[union-attr]
        for arg in args:
            if arg is None:
                variant.append(None)
            else:
                variant += (arg.dtype, arg.device, *[n == 1 for n in arg.shape])
        chosen = tuple(variant)
        run = self._runs.get(chosen) or self._find(chosen, args)
        if run is None or 0 in args[0].shape:  # type: ignore[union-attr]
            return self.function(*self.constants, *args)
        return run(args)

    def _find(self, variant: tuple[Any, ...], args: tuple[Tensor | None, ...]) -> Run | None:
        if variant in self._runs:
            return None  # known to stay eager
        if 0 in args[0].shape:  # type: ignore[union-attr]
            return None
        if variant not in self._keys:
            try:
                key = self.library.shelf.key(self.function, self.constants, variant)
            except Unkeyable as error:
                self.library.failed[str(error)] = str(error)
                self._runs[variant] = None
                return None
            self._keys[variant] = key
        key = self._keys[variant]
        loader = self.library.find(key, lambda: self._job(key, variant[0], args))
        if loader is None:
            if key in self.library.failed:
                self._runs[variant] = None
            return None
        self._runs[variant] = _runner(loader)
        return self._runs[variant]

    def _job(self, key: str, parallel: bool, args: tuple[Tensor | None, ...]) -> compiling.Job:
        tensors = tuple(None if arg is None else (arg.dtype, tuple(arg.shape)) for arg in args)
        device = args[0].device.type  # type: ignore[union-attr]
        return compiling.Job(key, self.library.shelf.folder, self.function, self.constants, tensors, device, parallel)


def _runner(loader: Any) -> Run:
    run = loader.run

    def call(args: tuple[Any, ...]) -> Tensor:
        found: Tensor = run([arg for arg in args if arg is not None])[0]
        return found

    return call
