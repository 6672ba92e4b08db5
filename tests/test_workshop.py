"""Kept figures, and the process of a synthesis, without any synthesis."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lpt.errors import UserError
from lpt.hardware import synthesis, yosys
from lpt.hardware.synthesis import Workshop
from lpt.hardware.unit import Unit
from lpt.hardware.verilog import source

UNIT = Unit.read("int3")
COSTS = {"gates": 123.25, "gates_a_product": 123.25, "transistors": None, "delay": 0.1, "cases": 64, "pairs": 64}


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workshop]:
    """With one entry kept; `made` counts what is made."""
    monkeypatch.setattr(yosys, "version", lambda: "pyosys 0")
    made: list[Unit] = []
    monkeypatch.setattr(Workshop, "_costs", lambda self, unit: made.append(unit) or dict(COSTS))
    monkeypatch.setattr(Workshop, "made", made, raising=False)
    shop = Workshop(tmp_path)
    assert shop.costs(UNIT) == COSTS and len(made) == 1
    yield shop


def entry(workshop: Workshop) -> Path:
    (file,) = workshop.folder.glob("*.json")
    return file


def test_what_is_kept_is_not_made_again(workshop: Workshop) -> None:
    assert Workshop(workshop.folder).costs(UNIT) == COSTS and len(workshop.made) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "content", ["[]", "null", "3", '"text"', '{"cells": {}}', "{}", "", "[" * 10**5, '{"cells": 3, "checksum": 3}']
)  # fmt: skip
def test_an_entry_of_another_shape_is_made_again(workshop: Workshop, content: str) -> None:
    whole = entry(workshop).read_text()
    entry(workshop).write_text(content)
    assert workshop.costs(UNIT) == COSTS and len(workshop.made) == 2  # type: ignore[attr-defined]
    assert entry(workshop).read_text() == whole


def test_any_changed_character_of_an_entry_is_seen(workshop: Workshop) -> None:
    whole = entry(workshop).read_text()
    kept = json.loads(whole)
    for at, old in enumerate(whole):
        entry(workshop).write_text(whole[:at] + ("7" if old != "7" else "8") + whole[at + 1 :])
        found = synthesis._read(entry(workshop))
        assert found in ({}, {key: value for key, value in kept.items() if key != "checksum"}), at  # (white space)
    entry(workshop).write_text(whole.replace("123.25", "12.25"))
    assert workshop.costs(UNIT) == COSTS and len(workshop.made) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("content", [b"", b"module x(); endmodule", b"\xff"])
def test_damaged_verilog_is_written_again(workshop: Workshop, content: bytes) -> None:
    file = entry(workshop).with_suffix(".v")
    file.write_bytes(content)
    workshop.costs(UNIT)
    assert file.read_text() == source(UNIT) and len(workshop.made) == 1  # type: ignore[attr-defined]


def test_a_package_that_cannot_be_imported_is_told_like_one_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyosys").mkdir()
    (tmp_path / "pyosys" / "__init__.py").write_text("raise ImportError('libtcl is not there')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(yosys.util, "find_spec", lambda name: name)
    yosys._import_fault.cache_clear()
    try:
        assert not yosys.available()
        with pytest.raises(UserError, match=r"needs the package pyosys \(.*libtcl is not there\): pip install"):
            Workshop(tmp_path / "outputs")
    finally:
        yosys._import_fault.cache_clear()
    assert not (tmp_path / "outputs").exists()


def test_a_folder_that_cannot_be_written_is_told_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yosys, "version", lambda: "pyosys 0")
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "synthesis"):
        with pytest.raises(UserError, match=r"paths.outputs=.* cannot be written .*: give a folder"):
            Workshop(folder)

    def full(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(synthesis.tempfile, "TemporaryFile", full)
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
        Workshop(tmp_path / "synthesis")


# -- the child -----------------------------------------------------------------------------------------------------

SLEEPER = """
import os, subprocess, sys, time
sys.path.insert(0, {child!r})
import child
child.end_with_parent()
fifo = os.open({fifo!r}, os.O_WRONLY)
os.set_inheritable(fifo, True)
os.write(fifo, b"up")
subprocess.run([sys.executable, "-c", "import time; time.sleep({seconds})"], close_fds=False)
"""
PARENT = """
import sys
from pathlib import Path
from lpt.hardware.yosys import guarded
guarded([sys.executable, "-c", {sleeper!r}], Path({folder!r}), {limit})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_child_outlives_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    """A child, and a child of that, hold a pipe open: it ends when both are gone. (Interrupted, as at a time limit,
    the parent itself ends its child, but not the child's.)"""
    os.mkfifo(tmp_path / "fifo")
    sleeper = SLEEPER.format(child=str(Path(yosys.__file__).parent), fifo=str(tmp_path / "fifo"), seconds=60)
    code = PARENT.format(sleeper=sleeper, folder=str(tmp_path), limit=100)
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as parent:
        with (tmp_path / "fifo").open("rb") as fifo:
            assert fifo.read(2) == b"up"
            parent.send_signal(number)
            assert select.select([fifo], [], [], 30)[0] and fifo.read() == b""
        assert parent.wait() == -number


def test_a_childs_output_and_end_are_told(tmp_path: Path) -> None:
    child = f"import sys; sys.path.insert(0, {str(Path(yosys.__file__).parent)!r}); import child"
    code = f"{child}; child.end_with_parent(); print('said'); sys.exit(3)"
    done = yosys.guarded([sys.executable, "-c", code], tmp_path, 50)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "")
