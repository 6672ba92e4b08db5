"""The cell library: its own, as a table here and as the Liberty file `cells.lib`, or a user's Liberty file.

Own cells. `area` counts NAND2 gates and `transistors` those of static complementary CMOS; both are typical of libraries
of several technologies. Delay is that of logical effort (Sutherland, Sproull, Harris 1999), in units tau of an inverter
that drives another: every cell is sized to drive like that inverter, so an input loads by the cell's logical effort
(`capacitance`, an inverter's input is 1), and delay = `parasitic` + load. `python -m lpt.hardware.library`
writes the file.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..data.places import place
from ..errors import UserError

OWN = Path(__file__).with_name("cells.lib")


@dataclass(frozen=True)
class Cell:
    """One cell with one output.

    Attributes:
        name, output: of the cell, and of its output pin.
        function: of the output, as Liberty writes it: ! * + ^, in the names of the inputs.
        inputs: load by input pin.
        area: in NAND2 gates.
        transistors, parasitic: 0 where a library does not say.
        data, clock: of a flip-flop, its next state and its clock; "" otherwise.
    """

    name: str
    output: str
    function: str
    inputs: dict[str, float]
    area: float
    transistors: int = 0
    parasitic: float = 0.0
    data: str = ""
    clock: str = ""


def _cell(name: str, function: str, area: float, transistors: int, parasitic: float, **inputs: float) -> Cell:
    return Cell(name, "Y", function, inputs, area, transistors, parasitic)


# Logical efforts for a ratio of 2 between pull-up and pull-down: NAND (n + 2) / 3, NOR (2n + 1) / 3, and so on.
CELLS = [
    _cell("INV", "!A", 0.67, 2, 1, A=1),
    _cell("BUF", "A", 1.0, 4, 2, A=1),
    _cell("NAND2", "!(A*B)", 1.0, 4, 2, A=4 / 3, B=4 / 3),
    _cell("NOR2", "!(A+B)", 1.0, 4, 2, A=5 / 3, B=5 / 3),
    _cell("NAND3", "!(A*B*C)", 1.33, 6, 3, A=5 / 3, B=5 / 3, C=5 / 3),
    _cell("NOR3", "!(A+B+C)", 1.33, 6, 3, A=7 / 3, B=7 / 3, C=7 / 3),
    _cell("NAND4", "!(A*B*C*D)", 1.67, 8, 4, A=2, B=2, C=2, D=2),
    _cell("NOR4", "!(A+B+C+D)", 1.67, 8, 4, A=3, B=3, C=3, D=3),
    _cell("AND2", "A*B", 1.33, 6, 4, A=4 / 3, B=4 / 3),
    _cell("OR2", "A+B", 1.33, 6, 4, A=5 / 3, B=5 / 3),
    _cell("AOI21", "!((A*B)+C)", 1.33, 6, 7 / 3, A=2, B=2, C=5 / 3),
    _cell("OAI21", "!((A+B)*C)", 1.33, 6, 7 / 3, A=2, B=2, C=4 / 3),
    _cell("AOI22", "!((A*B)+(C*D))", 1.67, 8, 4, A=2, B=2, C=2, D=2),
    _cell("OAI22", "!((A+B)*(C+D))", 1.67, 8, 4, A=2, B=2, C=2, D=2),
    _cell("XOR2", "A^B", 2.33, 10, 4, A=4, B=4),
    _cell("XNOR2", "!(A^B)", 2.33, 10, 4, A=4, B=4),
    _cell("MUX2", "(A*!S)+(B*S)", 2.33, 12, 4, A=2, B=2, S=4),
    Cell("DFF", "Q", "IQ", {"D": 2.0, "CK": 2.0}, 5.0, 24, 6.0, data="D", clock="CK"),
]


def text(cells: list[Cell]) -> str:
    """The Liberty file of these cells."""
    lines = [
        "/* Areas in NAND2 equivalents; loads in inputs of an inverter; lpt_parasitic in tau of logical effort.",
        "   Written by python -m lpt.hardware.library, which explains the figures. */",
        "library (lpt) {",
        '  time_unit : "1ns";',
        "  capacitive_load_unit (1, ff);",
        "  define (lpt_transistors, cell, integer);",
        "  define (lpt_parasitic, cell, float);",
    ]
    for cell in cells:
        lines += [f"  cell ({cell.name}) {{", f"    area : {cell.area};"]
        lines += [f"    lpt_transistors : {cell.transistors};", f"    lpt_parasitic : {cell.parasitic:.4g};"]
        if cell.data:
            lines.append(f'    ff (IQ, IQN) {{ next_state : "{cell.data}"; clocked_on : "{cell.clock}"; }}')
        for pin, load in cell.inputs.items():
            clock = " clock : true;" * (pin == cell.clock)
            lines.append(f"    pin ({pin}) {{ direction : input;{clock} capacitance : {load:.4g}; }}")
        lines.append(f'    pin ({cell.output}) {{ direction : output; function : "{cell.function}"; }}')
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


# -- reading -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Library:
    """Attributes:
    path: the Liberty file.
    cells: those with one output, by name; areas in this library's NAND2.
    hash: of the file.
    own: whether it is lpt's, which has delays and transistors.
    """

    path: Path
    cells: dict[str, Cell]
    hash: str
    own: bool


@cache
def read(path: Path | str | None = None) -> Library:
    """The library in a Liberty file; lpt's own if None.

    Raises:
        UserError: no such file, no NAND2 in it, or no plain flip-flop.
    """
    file = OWN if path is None else place(path, "library")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"library={file}: {error.strerror}: give a Liberty file (.lib)") from error
    try:
        groups = _group(iter(_TOKEN.findall(_COMMENT.sub(" ", content.decode("utf-8", "replace")))))
        found = [cell for group in _inside(groups, "library") for cell in _inside(group, "cell")]
        cells = [made for group in found if (made := _read_cell(group))]
    except (StopIteration, ValueError, IndexError) as error:
        raise UserError(
            f"library={file}: this is no Liberty file that can be read: {error or 'it ends early'}"
        ) from error
    nand = [c.area for c in cells if _is_nand2(c) and c.area > 0]
    if not nand or not any(cell.data for cell in cells):
        raise UserError(
            f"library={file}: it needs a NAND of two inputs, and a flip-flop with nothing but data and clock"
        )
    scaled = {c.name: Cell(**{**vars(c), "area": c.area / min(nand)}) for c in cells}
    return Library(file, scaled, hashlib.sha256(content).hexdigest()[:12], file == OWN)


_COMMENT = re.compile(r"/\*.*?\*/|\\\r?\n", re.DOTALL)
_TOKEN = re.compile(r'"[^"]*"|[{}():;,]|[^\s{}():;,"]+')
Group = list[tuple[str, list[str], Any]]  # statements: name, arguments, and what is in braces (None if nothing)


def _group(tokens: Iterator[str]) -> Group:
    """Statements up to a closing brace: `name : value ;`, `name (arguments) ;` or `name (arguments) { ... }`."""
    found: Group = []
    name, pending = "", None
    for token in tokens:
        if token == "}":
            break
        if token == ":":
            value: list[str] = []
            for part in tokens:
                if part in ";}":
                    break
                value.append(part.strip('"'))
            found.append((name, [" ".join(value)], None))
            if part == "}":
                break
        elif token == "(":
            pending = []
            for part in tokens:
                if part == ")":
                    break
                if part != ",":
                    pending.append(part.strip('"'))
            found.append((name, pending, None))
        elif token == "{":
            found[-1] = (*found[-1][:2], _group(tokens))
        elif token != ";":
            name = token
    return found


def _inside(group: Group, name: str) -> Iterator[Group]:
    for found, arguments, inner in group:
        if found == name and inner is not None:
            yield [("name", arguments, None), *inner]


def _one(group: Group, name: str, default: str = "") -> str:
    return next((arguments[0] for found, arguments, _ in group if found == name and arguments), default)


def _read_cell(group: Group) -> Cell | None:
    """A cell of one output with a function; of flip-flops only the plainest; None for any other."""
    pins = list(_inside(group, "pin"))
    outputs = [pin for pin in pins if _one(pin, "direction") == "output" and _one(pin, "function")]
    inputs = {_one(p, "name"): float(_one(p, "capacitance", "0")) for p in pins if _one(p, "direction") == "input"}
    kinds = {name for name, _, _ in group}
    if kinds & {"latch", "statetable", "latch_bank", "ff_bank"} or _one(group, "dont_use") == "true":
        return None
    flops = list(_inside(group, "ff"))
    if flops and (len(inputs) != 2 or {"clear", "preset"} & {name for name, _, _ in flops[0]}):
        return None
    if flops:  # of Q and QN only the first is looked at
        outputs = [pin for pin in outputs if _one(pin, "function") == _one(flops[0], "name")]
        if _one(flops[0], "next_state") not in inputs or _one(flops[0], "clocked_on") not in inputs:
            return None
    if len(outputs) != 1:
        return None
    return Cell(
        _one(group, "name"), _one(outputs[0], "name"), _one(outputs[0], "function"), inputs,
        float(_one(group, "area", "0")), int(_one(group, "lpt_transistors", "0")),
        float(_one(group, "lpt_parasitic", "0")), _one(flops[0], "next_state") if flops else "",
        _one(flops[0], "clocked_on") if flops else "",
    )  # fmt: skip


def _is_nand2(cell: Cell) -> bool:
    from .logic import table

    return not cell.data and len(cell.inputs) == 2 and table(cell.function, tuple(cell.inputs)) == 0b0111


if __name__ == "__main__":
    OWN.write_text(text(CELLS), encoding="utf-8")
