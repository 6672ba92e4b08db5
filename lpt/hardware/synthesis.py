"""The figures of units, kept in a folder: beside each the tool's version and the library's hash, which also find it.

    workshop = Workshop(folder)
    workshop.costs(Unit.read("fp134"))["gates"]

A unit's file holds what was asked of it so far, and a checksum of that; its Verilog lies beside it. What was changed by
anything else is made again. No figure is given before its netlist has
been proven.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import figures, library, yosys
from .measuring import measure
from .netlist import Machine
from .parts import of_library, seven_series
from .proof import Cases
from .streams import Stream
from .unit import Unit
from .verilog import source

PROOF = 1  # raised when the proof or a figure comes to mean something else, so that kept ones are not read


class Workshop:
    """Where units are synthesized.

    Args:
        folder: of the kept figures and the Verilog; made if there is none.
        path: a Liberty file; lpt's own library if None.

    Raises:
        UserError: pyosys is missing, the library cannot be used, or the folder cannot be written.
    """

    def __init__(self, folder: Path, path: Path | str | None = None) -> None:
        self.folder, self.library, self.tool = folder, library.read(path), yosys.version()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(
                f"paths.outputs={folder.parent}: {folder} cannot be written ({error.strerror}): give a folder that can "
                "be written"
            ) from error
        self._last: tuple[Unit, Machine, Cases] | None = None  # of several figures in a row

    def costs(self, unit: Unit, fresh: bool = False) -> dict[str, Any]:
        """`gates` (NAND2), `gates_a_product`, `transistors`, `delay` (FO4), `cases` proven, `pairs` of codes in them.

        Args:
            fresh: whatever is kept.
        """
        return self._kept(unit, "cells", lambda: self._costs(unit), fresh)

    def parts(self, unit: Unit) -> dict[str, float]:
        """Gates by part, each synthesized by itself."""

        def make() -> dict[str, float]:
            modules = yosys.cells(source(unit), unit.name, self.library, flatten=False)
            return figures.by_part(modules, unit.name, self.library)

        return self._kept(unit, "parts", make)

    def slices(self, unit: Unit) -> dict[str, int]:
        """`luts`, `carry4` and `ffs` of a 7-series FPGA, without DSP blocks."""

        def make() -> dict[str, int]:
            netlist = yosys.luts(source(unit), unit.name)[unit.name]
            self._prove(unit, Machine(netlist, seven_series))
            return figures.slices(netlist)

        return self._kept(unit, "slices", make)

    def at_work(self, unit: Unit, streams: Sequence[Stream], key: str) -> dict[str, dict[str, float | None]]:
        """Error and energy by kind of product, see `measuring.measure`; `key` tells these streams from others."""

        def make() -> dict[str, dict[str, float | None]]:
            return measure(unit, self._proven(unit)[0], self.library, streams)

        return self._kept(unit, f"at work {key}", make)

    def verilog(self, unit: Unit) -> Path:
        """The unit's file of Verilog; written again if it is not that of the unit."""
        path, text = self._path(unit).with_suffix(".v"), source(unit)
        try:
            whole = path.read_bytes() == text.encode()
        except OSError:
            whole = False
        if not whole:
            _write(path, text)
        return path

    # -- inside --------------------------------------------------------------------------------------------------

    def _costs(self, unit: Unit) -> dict[str, Any]:
        machine, cases = self._proven(unit)
        gates = figures.area(machine.netlist, self.library)
        return {
            "gates": gates, "gates_a_product": gates / unit.ways,
            "transistors": figures.transistors(machine.netlist, self.library),
            "delay": figures.delay(machine, self.library), "cases": len(cases.state), "pairs": cases.pairs,
        }  # fmt: skip

    def _proven(self, unit: Unit) -> tuple[Machine, Cases]:
        if self._last is None or self._last[0] != unit:
            netlist = yosys.cells(source(unit), unit.name, self.library)[unit.name]
            machine = Machine(netlist, of_library(self.library))
            self._last = unit, machine, self._prove(unit, machine)
        return self._last[1:]

    @staticmethod
    def _prove(unit: Unit, machine: Machine) -> Cases:
        cases = Cases.of(unit)
        figures.proven(lambda: cases.wrong(machine), unit.name, len(cases.state))
        return cases

    def _path(self, unit: Unit) -> Path:
        decides = [source(unit), self.tool, self.library.hash, yosys.AREA, str(PROOF)]
        return self.folder / f"{unit.name}-{hashlib.sha256(chr(0).join(decides).encode()).hexdigest()[:8]}.json"

    def _kept(self, unit: Unit, name: str, make: Callable[[], Any], fresh: bool = False) -> Any:
        path = self._path(unit)
        kept = _read(path)
        if fresh or name not in kept:
            made = make()
            kept |= {"unit": unit.name, "tool": self.tool, "library": self.library.hash, name: made}
            _write(path, json.dumps(kept | {"checksum": _checksum(kept)}, indent=1) + "\n")
        self.verilog(unit)
        return kept[name]


def _read(path: Path) -> dict[str, Any]:
    """What is kept in a file; nothing if there is none, or if it is not what was written."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept if kept.pop("checksum") == _checksum(kept) else {}
    except (OSError, ValueError, RecursionError, AttributeError, TypeError, KeyError):
        return {}  # (cut off, or of another shape)


def _checksum(kept: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    """So that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
