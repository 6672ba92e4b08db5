"""The child process that compiles, `python -m lpt.formats.compiling`, and how it is asked.

One child serves one process: jobs go in by its standard input, one line comes out for each. When its parent has ended
it does what it was asked for and ends, so that the next run finds the code.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import queue
import struct
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .shelf import Shelf, load, sources

SIZES = {False: (96, 40), True: (1 << 12, 160)}  # of examples, for one thread and for several: the code fits all sizes
CHECKED = ((2, 3), (17, 5), (96, 40), (1003, 31))  # sizes at which the compiled code is compared with the definition


@dataclass(frozen=True)
class Job:
    """What is to be compiled, and where it goes."""

    key: str
    folder: Path
    function: Callable[..., Any]
    constants: tuple[Any, ...]
    tensors: tuple[tuple[torch.dtype, tuple[int, ...]] | None, ...]  # dtype and shape of each argument
    fixed: tuple[int | tuple[int, int], ...]  # arguments, or dimensions of them, whose sizes are compiled in
    device: str
    parallel: bool
    sources: str = field(default_factory=sources)  # the definitions that the parent has in mind


class Compiler:
    """The parent's end: `ask` returns at once; `answer(key, why_not)` is called from a thread when a job is done.

    Args:
        answer: told the key, and "" or why there is no code.
        patient: the child leaves the processor to others.
    """

    def __init__(self, answer: Callable[[str, str], None], patient: bool) -> None:
        self.answer, self.patient = answer, patient
        self.pending: list[str] = []
        self._child: subprocess.Popen[bytes] | None = None

    def ask(self, job: Job) -> None:
        try:
            data = pickle.dumps(job)
            if self._child is None:
                self._start()
            assert self._child is not None and self._child.stdin is not None
            self.pending.append(job.key)
            self._child.stdin.write(struct.pack("<Q", len(data)) + data)
            self._child.stdin.flush()
        except (OSError, pickle.PicklingError, AttributeError, TypeError) as error:
            self.answer(job.key, f"the compiling process cannot be asked: {error}")

    def _start(self) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-m", __name__, *(["patient"] if self.patient else [])]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env,
            start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._listen, args=(self._child,), daemon=True).start()

    def _listen(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None and child.stdout is not None
        for line in child.stdout:
            key, _, why_not = line.decode().rstrip("\n").partition(" ")
            if key in self.pending:
                self.pending.remove(key)
                self.answer(key, why_not)
        with contextlib.suppress(OSError):
            child.stdin.close()
        child.stdout.close()
        child.wait()
        for key in self.pending:
            self.answer(key, "the compiling process has ended")


def serve() -> None:
    """The child's loop."""
    if "patient" in sys.argv:
        os.nice(10)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what compilers print is no answer
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(jobs,), daemon=True).start()
    while data := jobs.get():
        key = why_not = ""
        try:
            job: Job = pickle.loads(data)  # of the parent, through a pipe of its own
            key = job.key
            _once(job)
        except Exception as error:  # whatever unpickling, a tool chain or torch raises
            why_not = " ".join(str(error).split())[:300] or type(error).__name__
        try:
            print(key, why_not, file=answers, flush=True)
        except BrokenPipeError:  # the parent has ended
            answers = open(os.devnull, "w")  # noqa: SIM115


def _receive(jobs: queue.SimpleQueue[bytes]) -> None:
    """Take jobs as they come, so that the parent never waits; an empty one is the end."""
    while len(size := sys.stdin.buffer.read(8)) == 8:
        jobs.put(sys.stdin.buffer.read(struct.unpack("<Q", size)[0]))
    jobs.put(b"")


def _once(job: Job) -> None:
    """Compile, unless another process has done so or is about to."""
    if job.sources != sources():
        raise RuntimeError("lpt's files have changed since this process began: what is missing stays eager in it")
    shelf = Shelf(job.folder)
    job.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    shelf.tidy()
    with (job.folder / f"{job.key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if shelf.find(job.key) is None:
            with tempfile.TemporaryDirectory(dir=job.folder) as folder:
                shelf.put(job.key, build(job, Path(folder)))
    (job.folder / f"{job.key}.lock").unlink(missing_ok=True)


class _Definition(nn.Module):
    """The job's function as a module of its tensors."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def forward(self, *tensors: Tensor) -> Any:
        given = iter(tensors)
        return self.job.function(*self.job.constants, *(spec and next(given) for spec in self.job.tensors))


def build(job: Job, folder: Path) -> Path:
    """Compile `job` into a library in `folder`, and compare it with its definition.

    Raises:
        RuntimeError: it does not give the same bits.
    """
    from torch._inductor import aoti_compile_and_package

    tensors = examples(job, SIZES[job.parallel])
    places = [i for i, spec in enumerate(job.tensors) if spec is not None]
    dims = tuple(
        {d: torch.export.Dim.AUTO for d, n in enumerate(t.shape) if n > 1 and not {i, (i, d)} & {*job.fixed}}
        for i, t in zip(places, tensors, strict=True)
    )
    with torch.no_grad():
        program = torch.export.export(_Definition(job), tuple(tensors), dynamic_shapes=(dims,))
    threads = {"cpp.dynamic_threads": True} if job.parallel else {"cpp.threads": 1}
    package, library = folder / "code.pt2", folder / "code.so"
    aoti_compile_and_package(program, package_path=str(package), inductor_configs=threads)
    # The library alone: torch unpacks a package into a folder that it leaves behind where a process ends early.
    with zipfile.ZipFile(package) as archive:
        (inside,) = (name for name in archive.namelist() if name.endswith(".so"))
        library.write_bytes(archive.read(inside))
    package.unlink()
    run = load(library)
    for sizes in CHECKED:
        plain, compiled = (examples(job, sizes) for _ in range(2))
        found = _Definition(job)(*plain)
        returned = () if found is None else found if isinstance(found, tuple) else (found,)
        expected = [*returned, *plain]
        got = [*(t for t in run(compiled) if t is not None), *compiled]
        if not all(_same(a, b) for a, b in zip(expected, got, strict=True)):
            raise RuntimeError(f"compiled code gives other bits than its definition {job.function.__qualname__}")
    return library


def examples(job: Job, sizes: tuple[int, ...]) -> list[Tensor]:
    """Tensors as the job takes them, of other sizes: the same numbers at each call."""
    random = torch.Generator().manual_seed(0)
    given = [(i, d, n) for i, spec in enumerate(job.tensors) if spec is not None for d, n in enumerate(spec[1])]
    free = [(i, d, n) for i, d, n in given if n > 1 and not {i, (i, d)} & {*job.fixed}]
    size = {n: sizes[k] for k, n in enumerate(dict.fromkeys(n for _, _, n in free))}
    chosen = {(i, d): size[n] for i, d, n in free}
    found = []
    for i, spec in enumerate(job.tensors):
        if spec is not None:
            shape = [chosen.get((i, d), n) for d, n in enumerate(spec[1])]
            found.append(_example(spec[0], shape, random).to(job.device))
    return found


def _example(dtype: torch.dtype, shape: list[int], random: torch.Generator) -> Tensor:
    if not dtype.is_floating_point:
        low, high = (0, 256) if dtype == torch.uint8 else (0, 2) if dtype == torch.bool else (-3, 4)
        return torch.randint(low, high, shape, generator=random).to(dtype)
    x = torch.randn(shape, generator=random) * 2.0 ** torch.randint(-8, 8, shape, generator=random)
    if x.ndim:
        special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1e-42, 1.5, -0.75])
        x.view(-1)[: len(special) * (x.numel() // 16)] = special.repeat(x.numel() // 16)
    return x.to(dtype) if x.ndim else x.abs().to(dtype)


def _same(a: Tensor, b: Tensor) -> bool:
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(a.isnan(), b.isnan())
        and torch.equal(torch.where(a.isnan(), 0, a), torch.where(b.isnan(), 0, b))
    )


if __name__ == "__main__":
    serve()
