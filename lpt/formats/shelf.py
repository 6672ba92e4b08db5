"""Where compiled code lies, and the key that says all that decides it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .base import Format

LPT = Path(__file__).resolve().parents[1]
DEFINITIONS = ("formats", "dataflow", "weights", "execution")  # folders whose sources decide what is compiled
DAY = 24 * 3600  # seconds
_FORMAT = ("name", "bits", "octaves", "top_exponent", "scaled", "_levels")


class Unkeyable(ValueError):
    """Something that decides the code cannot be told apart from another of its kind."""


class Shelf:
    """A folder of compiled libraries, KEY.so, each with KEY.json: the hash of its bytes.

    Files appear whole (they are written elsewhere and renamed), so that processes may read and write at once; what is
    damaged, or belongs to somebody else, is as good as not there and is compiled again.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = default() if folder is None else folder

    def find(self, key: str) -> Path | None:
        """The library of `key`, if it is whole."""
        path = self.folder / f"{key}.so"
        try:
            entry = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            whole = _safe(path) and entry == {"sha256": _hash(path.read_bytes())}
        except (OSError, ValueError):
            return None
        return path if whole else None

    def put(self, key: str, library: Path) -> None:
        """Take the file `library`, of this file system, as the code of `key`."""
        path = self.folder / f"{key}.so"
        note = library.with_suffix(".note")
        note.write_text(json.dumps({"sha256": _hash(library.read_bytes())}), encoding="utf-8")
        os.replace(library, path)
        os.replace(note, path.with_suffix(".json"))

    def tidy(self) -> None:
        """Remove what compiling processes that were killed have left, a day later."""
        for path in [*self.folder.glob("tmp*"), *self.folder.glob("*.lock")]:
            with contextlib.suppress(OSError):  # another process does the same
                if time.time() - path.stat().st_mtime > DAY:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def size(self) -> tuple[int, int]:
        """Libraries, and bytes of all files."""
        files = [path for path in self.folder.glob("*") if path.is_file()] if self.folder.is_dir() else []
        return sum(path.suffix == ".so" for path in files), sum(path.stat().st_size for path in files)

    def clear(self) -> None:
        """Remove all of it; running processes keep what they have loaded."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def key(self, function: Callable[..., Any], constants: tuple[Any, ...], variant: tuple[Any, ...]) -> str:
        """A name for the code of `function` over `constants` for arguments of this variant.

        Raises:
            Unkeyable: a constant of a kind that cannot be described.
        """
        told = [describe(function), describe(constants), str(variant), environment(), sources()]
        if any(str(part).startswith("cuda") for part in variant):
            told.append(f"{torch.version.cuda} {torch.cuda.get_device_capability()}")
        return _hash("\n".join(told).encode())[:40]


def load(library: Path) -> Callable[[list[torch.Tensor]], list[torch.Tensor]]:
    """The code in a file; it is mapped into memory, so that the file may go away.

    Raises:
        RuntimeError: it is no such code.
    """
    return torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1).run  # type: ignore[attr-defined, no-any-return]


def default() -> Path:
    """The user's folder for compiled code: `LPT_CACHE`, or in the system's cache folder, or a temporary one."""
    if given := os.environ.get("LPT_CACHE"):
        return Path(given).expanduser() / "kernels"
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home
        base = Path(tempfile.gettempdir()) / f"lpt-{_user()}"
    return base / "lpt" / "kernels"


def describe(value: Any) -> str:
    """A text that is equal for two values only if they compile to the same code.

    Raises:
        Unkeyable: a kind of value for which nobody can say that.
    """
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(describe, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {describe(value[key])}' for key in sorted(value))}}}"
    if isinstance(value, Format):
        return f"{_kind(type(value))}{[getattr(value, name) for name in _FORMAT]}"
    if callable(value) and hasattr(value, "__qualname__"):
        return _kind(value)
    if hasattr(value, "__dict__"):
        return f"{_kind(type(value))}{describe(vars(value))}"
    raise Unkeyable(f"{value!r} cannot be compiled into a pass over memory: nothing tells it from others of its kind")


def _kind(definition: Any) -> str:
    """The name of a class or function; with a hash of its file, if it is not of lpt."""
    module, name = definition.__module__, definition.__qualname__
    if "<" in name:
        raise Unkeyable(f"{module}.{name} is defined inside a function, where a compiling process cannot find it")
    if module.partition(".")[0] == "lpt":
        return f"{module}.{name}"
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or file is None:
        raise Unkeyable(f"{module}.{name} is not in a module that a compiling process could import")
    return f"{module}.{name} {_hash(Path(file).read_bytes())}"


@functools.cache
def environment() -> str:
    """torch, processor and compiler: what decides the machine code besides the definition."""
    flags = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        pass
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{torch.__version__} {platform.machine()} {capability} {_hash(flags.encode())} {_compiler()}"


def _compiler() -> str:
    name = os.environ.get("CXX") or next((c for c in ("g++", "clang++", "c++") if shutil.which(c)), None)
    if name is None:
        return "no compiler"
    try:
        done = subprocess.run([name, "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "no compiler"
    return done.stdout.partition("\n")[0]


@functools.cache
def sources() -> str:
    """A hash of all files that define what is compiled."""
    files = sorted(path for folder in DEFINITIONS for path in (LPT / folder).glob("*.py"))
    return _hash(b"".join(path.read_bytes() for path in files))


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _safe(path: Path) -> bool:
    """Whether nobody but this user can have written the file: loading it runs what is in it."""
    if not hasattr(os, "getuid"):
        return True
    return all(at.stat().st_uid == _user() and not at.stat().st_mode & 0o022 for at in (path, path.parent))
