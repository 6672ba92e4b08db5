"""The cell library: its own, as a table here and as the Liberty file `cells.lib`, or a user's Liberty file.

Own cells. `area` counts NAND2 gates and `transistors` those of static complementary CMOS; both are typical of libraries
of several technologies. Delay is that of logical effort (Sutherland, Sproull, Harris 1999), in units tau of an inverter
that drives another: every cell is sized to drive like that inverter, so an input loads by the cell's logical effort
(`capacitance`, an inverter's input is 1), and delay = `parasitic` + load. `python -m lpt.hardware.library`
writes the file.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..errors import UserError
from ..places import place
from .liberty import Group, inside, one, statements
from .logic import compiled, table

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


def text(cells: Iterable[Cell]) -> str:
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
            state, clock = f"{cell.function}, {cell.function}N", f'clocked_on : "{cell.clock}";'
            lines.append(f'    ff ({state}) {{ next_state : "{cell.data}"; {clock} }}')
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
        UserError: no such file, one that cannot be read, a cell whose area or function is not told, or one of
            `REQUIRED` is not in it.
    """
    file = OWN if path is None else place(path, "library")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"library={file}: {error.strerror}: give a Liberty file (.lib)") from error
    try:
        groups = statements(content.decode("utf-8", "replace"))
        found = [cell for group in inside(groups, "library") for cell in inside(group, "cell")]
        cells = [made for group in found if (made := _read_cell(group))]
    except (ValueError, RecursionError) as error:
        raise UserError(f"library={file}: this is no Liberty file that can be used: {error}") from error
    if missing := [what for what, fits in REQUIRED.items() if not any(map(fits, cells))]:
        raise UserError(
            f"library={file}: it has no {', no '.join(missing)}: a library needs {', '.join(REQUIRED)}, each a cell "
            "with one output (a flip-flop may have the inverse, too)"
        )
    nand = min(cell.area for cell in cells if _computes(cell, 2, 0b0111))
    scaled = {c.name: Cell(**{**vars(c), "area": c.area / nand}) for c in cells}
    return Library(file, scaled, hashlib.sha256(content).hexdigest()[:12], file == OWN)


def _computes(cell: Cell, inputs: int, wanted: int) -> bool:
    return not cell.data and len(cell.inputs) == inputs and table(cell.function, tuple(cell.inputs)) == wanted


# Without one of these ABC or the mapping of flip-flops stops, or there is no unit of area.
REQUIRED: dict[str, Callable[[Cell], bool]] = {
    "NAND of two inputs": lambda cell: _computes(cell, 2, 0b0111),
    "inverter": lambda cell: _computes(cell, 1, 0b01),
    "buffer": lambda cell: _computes(cell, 1, 0b10),
    "flip-flop with nothing but data and a rising clock": lambda cell: bool(cell.data),
}
_OTHER = {"latch", "statetable", "latch_bank", "ff_bank", "bus", "bundle"}


def _read_cell(group: Group) -> Cell | None:
    """A cell of one output with a function; of flip-flops only the plainest; None for any other, which is not used.

    Raises:
        ValueError: a cell that would be used has a function, an area or a load that cannot be right.
    """
    name, pins, flops = one(group, "name"), list(inside(group, "pin")), list(inside(group, "ff"))
    inputs = [pin for pin in pins if one(pin, "direction") == "input"]
    outputs = [pin for pin in pins if one(pin, "direction") == "output" and one(pin, "function")]
    odd = any(one(pin, "direction") == "inout" or one(pin, "three_state") for pin in pins)
    if odd or not inputs or {kind for kind, _, _ in group} & _OTHER or one(group, "dont_use") == "true":
        return None
    names, data, clock = tuple(one(pin, "name") for pin in inputs), "", ""
    try:
        if flops:
            state, data, clock = (one(flops[0], key) for key in ("name", "next_state", "clocked_on"))
            if len(inputs) != 2 or {"clear", "preset"} & {key for key, _, _ in flops[0]}:
                return None
            for function in (data, clock):
                compiled(function, (*names, *next(args for key, args, _ in flops[0] if key == "name")))
            # Of Q and QN only the first is used: the netlist's cell has no other output (see `yosys.cells`).
            outputs = [pin for pin in outputs if one(pin, "function") == state]
            if {data, clock} != set(names):
                return None
        if len(outputs) != 1:
            return None
        function = one(outputs[0], "function")
        if not flops:
            compiled(function, names)
        return Cell(
            name, one(outputs[0], "name"), function,
            {pin: _number("capacitance", one(p, "capacitance", "0")) for pin, p in zip(names, inputs, strict=True)},
            _number("area", one(group, "area"), above=True), int(one(group, "lpt_transistors", "0")),
            _number("lpt_parasitic", one(group, "lpt_parasitic", "0")), data, clock,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"cell {name}: {error}") from error


def _number(name: str, text: str, above: bool = False) -> float:
    """A finite one from zero upward, or above zero."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0 or (above and number == 0):
        told = f"is {text[:40]}" if text else "is missing"
        raise ValueError(f"its {name} {told}: it must be a number {'above zero' if above else 'from zero upward'}")
    return number


if __name__ == "__main__":
    OWN.write_text(text(CELLS), encoding="utf-8")
