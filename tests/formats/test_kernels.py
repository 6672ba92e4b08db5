"""Compiled code on disk: the same bits, made once for all processes, rebuilt when it is damaged."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._inductor.runtime.runtime_utils import default_cache_dir

from lpt.formats import Format, get
from lpt.formats.kernels import Library
from lpt.formats.shelf import Shelf, Unkeyable, describe, environment

from .grids import random_bits

ROOT = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif("no compiler" in environment(), reason="no C++ compiler here")


def rounded(format: Format, x: Tensor, key: Tensor | None, scale: Tensor, seen: Tensor) -> Tensor:
    q = format.round(x, scale, key)
    seen.copy_(torch.maximum(seen, x.abs().nan_to_num(0, 0).amax()))
    return q


def arguments(n: int = 1000, key: int | None = None) -> list[Tensor | None]:
    x = torch.from_numpy(random_bits(n, 3))
    return [x, None if key is None else torch.tensor(key), torch.tensor(2, dtype=torch.int32), torch.tensor(0.0)]


def doubled(x: Tensor) -> None:
    x.mul_(2)


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, temporary: Path) -> Path:
    """Filled by two processes that ask for the same code at once."""
    folder = tmp_path_factory.mktemp("shelf")
    code = (
        "import sys; from pathlib import Path; from lpt.formats import get; from lpt.formats.kernels import Library\n"
        "import torch; from formats.test_kernels import arguments, doubled, rounded\n"
        "library = Library(Path(sys.argv[1]), wait=True)\n"
        "library.kernel(rounded, get('fp134'))(*arguments())\n"
        "assert library.kernel(doubled)(x := torch.ones(9)) is None and x.sum() == 18\n"
        "print(library.why_not)\n"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    env |= {"TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": default_cache_dir()}
    command = [sys.executable, "-c", code, str(folder)]
    both = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    assert [process.communicate()[0] for process in both] == ["\n", "\n"]
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@needs_compiler
def test_the_same_bits_whatever_the_size(folder: Path) -> None:
    library, fmt = Library(folder, wait=True), get("fp134")
    kernel = library.kernel(rounded, fmt)
    for n in (2, 3, 31, 1000, 40_000):
        args, plain = arguments(n), arguments(n)
        assert torch.equal(kernel(*args).nan_to_num(9), rounded(fmt, *plain).nan_to_num(9)), n  # type: ignore[arg-type]
        assert torch.equal(args[3], plain[3])  # type: ignore[arg-type]
    assert len(library.loaded) == 1 and not library.failed


@needs_compiler
def test_two_processes_leave_one_entry_a_kernel_and_no_rubbish(folder: Path, temporary: Path) -> None:
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".json", ".so", ".so"]
    assert Shelf(folder).size()[0] == 2
    assert not list(temporary.glob("aotinductor*"))  # where torch unpacks its packages


def test_what_a_killed_child_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    for name in ("tmp1", "tmp2", "key.lock"):
        (tmp_path / name).mkdir() if "tmp" in name else (tmp_path / name).touch()
    for name in ("tmp1", "key.lock"):
        os.utime(tmp_path / name, (1, 1))
    Shelf(tmp_path).tidy()
    assert [path.name for path in tmp_path.iterdir()] == ["tmp2"]


@needs_compiler
@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "note", "foreign", "open to all"])
def test_damaged_and_foreign_entries_are_as_good_as_none(folder: Path, tmp_path: Path, damage: str) -> None:
    shelf = Shelf(tmp_path)
    one = min(folder.glob("*.so"))
    for path in (one, one.with_suffix(".json")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (path,) = tmp_path.glob("*.so")
    assert shelf.find(path.stem) == path
    data = path.read_bytes()
    if damage in ("cut", "bit", "empty"):
        flipped = data[:999] + bytes([data[999] ^ 1]) + data[1000:]
        path.write_bytes({"cut": data[:-9], "bit": flipped, "empty": b""}[damage])
    elif damage == "open to all":
        path.chmod(0o666)
    else:
        path.with_suffix(".json").write_text("{" if damage == "note" else json.dumps({"sha256": "0" * 64}))
    assert shelf.find(path.stem) is None


def test_without_a_compiler_all_is_eager_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/c++")
    library, fmt = Library(tmp_path), get("fp143")
    kernel = library.kernel(rounded, fmt)
    deadline = time.monotonic() + 60
    while not library.why_not and time.monotonic() < deadline:
        assert torch.equal(kernel(*arguments()).nan_to_num(9), rounded(fmt, *arguments()).nan_to_num(9))  # type: ignore[arg-type]
    assert library.why_not and not library.loaded
    assert torch.equal(kernel(*arguments()).nan_to_num(9), rounded(fmt, *arguments()).nan_to_num(9))  # type: ignore[arg-type]


def test_what_cannot_be_told_apart_is_eager(tmp_path: Path) -> None:
    library = Library(tmp_path, wait=True)
    assert library.kernel(lambda x: x + 1)(torch.ones(3)).tolist() == [2, 2, 2]
    assert "inside a function" in library.why_not


def test_keys_differ_with_all_that_decides_the_code() -> None:
    shelf, variant = Shelf(Path("nowhere")), (False, torch.float32, torch.device("cpu"), False)
    keys = {
        shelf.key(rounded, (get(name), room), (*variant, more))
        for name in ("fp134", "fp143", "5x5,4,3", "posit8_1") for room in (0, 1, 1.0, "1") for more in (True, None)
    }  # fmt: skip
    assert len(keys) == 4 * 4 * 2


def test_descriptions() -> None:
    assert describe((1, "a", None, [True])) == "[1, 'a', None, [True]]"
    assert describe(get("fp134")) == describe(get([5] * 7 + [4, 3, 2, 1])) != describe(get("fp143"))
    with pytest.raises(Unkeyable):
        describe({1, 2})
