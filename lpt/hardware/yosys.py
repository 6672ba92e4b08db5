"""Yosys and ABC, by the package pyosys: from Verilog to a netlist of cells, in a process for each synthesis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib import metadata, util
from pathlib import Path

from ..errors import UserError
from .library import Library, text
from .netlist import Netlist

# ABC by area, without timing: the steadiest of several scripts over equivalent ways to write the same unit.
AREA = "strash;ifraig;scorr;dc2;dc2;dc2;dc2;dch,-f;amap;strash;dc2;dch,-f;amap"
LIMIT = 1800  # seconds for one synthesis
INSTALL = "pip install -e '.[hardware]'"


def version() -> str:
    """Of pyosys.

    Raises:
        UserError: it is not installed, or cannot be imported.
    """
    if (missing := _missing()) is not None:
        why = f" ({missing})" if missing else ""
        raise UserError(
            f"synthesis needs the package pyosys{why}: {INSTALL} (without it the model of lpt.search serves)"
        )
    return f"pyosys {metadata.version('pyosys')}"


def available() -> bool:
    return _missing() is None


def _missing() -> str | None:
    """Why there is no pyosys: "" if it is not installed; None if it can be used."""
    if util.find_spec("pyosys") is None:
        return ""
    return _import_fault()


@cache
def _import_fault() -> str | None:
    """What an import says, in a process of its own as a synthesis is; None if nothing."""
    code = "from importlib import metadata; from pyosys import libyosys; metadata.version('pyosys')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if not done.returncode:
        return None
    lines = done.stderr.strip().splitlines()
    return f"it is installed, but cannot be imported: {lines[-1] if lines else f'exit {done.returncode}'}"


def cells(source: str, top: str, library: Library, flatten: bool = True) -> dict[str, Netlist]:
    """The netlists of cells of `library`, by module: `top` alone if it is flattened.

    Raises:
        UserError: pyosys is missing.
        RuntimeError: the synthesis failed.
    """
    flat = " -flatten" if flatten else ""
    passes = [
        f"synth{flat} -noabc -top {top}", "dfflibmap -liberty cells.lib", "opt_clean",
        f"abc -liberty cells.lib -script +{AREA}", "opt_clean -purge",
    ]  # fmt: skip
    # Not the user's file, but the cells and outputs of it that can be computed with: no other can be in the netlist.
    return _run(source, passes, text(library.cells.values()))


def luts(source: str, top: str) -> dict[str, Netlist]:
    """The netlist of 7-series primitives, without DSP blocks. Raises as `cells` does."""
    return _run(source, [f"synth_xilinx -family xc7 -flatten -nodsp -noiopad -noclkbuf -top {top}", "opt_clean -purge"])


def guarded(command: list[str], folder: Path, limit: float) -> subprocess.CompletedProcess[str]:
    """Run a child that calls `child.end_with_parent`: nothing of it is left when this returns, raises or is killed.

    Raises:
        subprocess.TimeoutExpired: it took more than `limit` seconds.
    """
    reading, held = os.pipe()
    try:
        return subprocess.run(command, cwd=folder, stdin=reading, capture_output=True, text=True, timeout=limit,
                              check=False, process_group=0)  # fmt: skip
    finally:
        os.close(held)
        os.close(reading)


def _run(source: str, passes: list[str], liberty: str = "") -> dict[str, Netlist]:
    version()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "unit.v").write_text(source, encoding="utf-8")
        (folder / "cells.lib").write_text(liberty, encoding="utf-8")
        every = ["read_verilog unit.v", *passes, "write_json unit.json"]
        command = [sys.executable, str(Path(__file__).with_name("child.py")), "log", *every]
        try:
            done = guarded(command, folder, LIMIT)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"a synthesis took more than {LIMIT} s and was stopped") from error
        result = folder / "unit.json"
        if done.returncode or not result.is_file():
            log = (folder / "log").read_text(encoding="utf-8") if (folder / "log").is_file() else ""
            raise RuntimeError(f"the synthesis failed ({done.returncode}): {(log + done.stderr).strip()[-2000:]}")
        modules = json.loads(result.read_text(encoding="utf-8"))["modules"]
    own = {key: module for key, module in modules.items() if not int(module["attributes"].get("blackbox", "0"), 2)}
    return {key: Netlist.of(module) for key, module in own.items()}
