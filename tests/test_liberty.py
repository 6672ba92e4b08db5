"""Libraries of cells: what is read of a Liberty file, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lpt.errors import UserError
from lpt.hardware import library, logic
from lpt.hardware.netlist import Instance
from lpt.hardware.parts import of_library


def test_the_shipped_library_is_the_one_in_the_code() -> None:
    assert library.OWN.read_text(encoding="utf-8") == library.text(library.CELLS)
    cells = library.read().cells
    assert set(cells) == {cell.name for cell in library.CELLS} and cells["NAND2"].area == 1
    assert cells["DFF"].data == "D" and cells["XOR2"].transistors == 10


@pytest.mark.parametrize(
    ("function", "table"),
    [
        ("!(A*B)", 0b0111),
        ("A B", 0b1000),
        ("A'+B", 0b1101),
        ("(A^B)'", 0b1001),
        ("A&!B|B&!A", 0b0110),
        ("A*B^B", 0b0000),
    ],
)
def test_functions_of_liberty(function: str, table: int) -> None:
    assert logic.table(function, ("A", "B")) == table


def test_a_users_library(tmp_path: Path) -> None:
    file = tmp_path / "two.lib"
    file.write_text(
        '/* a comment */ library("x") { cell("ND") { area : 2.5; pin(A1) { direction : "input"; capacitance : 0.5; }\n'
        'pin("A2") { direction : input; capacitance : 0.5; timing () { values("1, 2", \\\n "3, 4"); } }\n'
        'pin(ZN) { direction : output; function : "(A1 A2)\'"; } }\n'
        'cell(FF) { area : 10; ff("IQ","IQN") { next_state : "D"; clocked_on : "CP"; } pin(D) { direction : input; }\n'
        'pin(CP) { direction : input; clock : true; } pin(Q) { direction : output; function : "IQ"; }\n'
        'pin(QN) { direction : output; function : "IQN"; } }\n'
        'cell(N) { area : 1; pin(A) { direction : input; } pin(Z) { direction : output; function : "A\'"; } }\n'
        'cell(B) { area : 1; pin(A) { direction : input; } pin(Z) { direction : output; function : "A*1+0"; } }\n'
        "cell(HA) { pin(A) { direction : input; } pin(B) { direction : input; }\n"
        'pin(S) { direction : output; function : "A^B"; } pin(C) { direction : output; function : "A B"; } } }'
    )
    found = library.read(file)
    assert found.cells["ND"].area == 1 and found.cells["FF"].area == 4 and found.cells["FF"].output == "Q"
    assert not found.own and found.cells["ND"].inputs == {"A1": 0.5, "A2": 0.5}
    # What the synthesizer gets: no cell, and no output, but those that can be computed with.
    file.write_text(library.text(found.cells.values()))
    library.read.cache_clear()
    assert library.read(file).cells == found.cells and set(found.cells) == {"ND", "FF", "N", "B"}
    assert "pin (QN)" not in file.read_text()


def test_a_second_output_in_a_netlist_is_refused_by_name() -> None:
    of = of_library(library.read())
    assert of(Instance("DFF", {"D": (1,), "CK": (2,), "Q": (3,), "QN": ()}, {})).outputs == ("Q",)
    with pytest.raises(ValueError, match=r"DFF of cells\.lib: QN is no pin"):
        of(Instance("DFF", {"D": (1,), "CK": (2,), "Q": (3,), "QN": (4,)}, {}))


def test_the_synthesizer_gets_the_shipped_library_as_it_is() -> None:
    assert library.text(library.read().cells.values()) == library.OWN.read_text(encoding="utf-8")


WHOLE = library.text(library.CELLS)
WRONG = {
    "area is missing": ("cell XOR2: its area is missing", WHOLE.replace("    area : 2.33;\n", "")),
    "area of -1": ("cell DFF: its area is -1", WHOLE.replace("area : 5.0", "area : -1")),
    "area of nan": ("cell DFF: its area is nan", WHOLE.replace("area : 5.0", "area : nan")),
    "area of 0": ("cell NAND2: its area is 0", WHOLE.replace("area : 1.0;", "area : 0;").replace(": 0;", ": 1;", 1)),
    "no number": ("cell DFF: its area is big", WHOLE.replace("area : 5.0", "area : big")),
    "function": ("cell XOR2: a function ends early", WHOLE.replace('"A^B"', '"A^"')),
    "sign": ("cell XOR2: '%' is not", WHOLE.replace('"A^B"', '"A%B"')),
    "pin": ("cell XOR2: 'Z' is not one of A, B", WHOLE.replace('"A^B"', '"A^Z"')),
    "bracket of a function": ("cell XOR2: a bracket", WHOLE.replace('"A^B"', '"(A^B"')),
    "next state": ("cell DFF: 'E' is not one of", WHOLE.replace('next_state : "D"', 'next_state : "E"')),
    "brace": ("within library lpt", WHOLE[:-2]),
    "one brace more": ("none has opened", WHOLE + "}"),
    "bracket": ("the bracket of cell", WHOLE.replace("cell (INV)", "cell (INV")),
    "quote": ("a quote", WHOLE.replace('"A^B"', '"A^B')),
    "comment": ("a comment", WHOLE + "/* and"),
    "semicolon": ("behind area", WHOLE.replace("area : 5.0;\n    lpt_transistors : 24;", "area : 5.0 pin (X) {")),
    "nothing": ("no NAND of two inputs, no inverter, no buffer, no flip-flop", ""),
    **{f"no {what}": (f"has no {what}", library.text([c for c in library.CELLS if not fits(c)]))
       for what, fits in library.REQUIRED.items()},
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_library_that_cannot_be_used_is_told_in_a_sentence(case: str, tmp_path: Path) -> None:
    said, content = WRONG[case]
    assert content != WHOLE
    (tmp_path / "mine.lib").write_text(content)
    with pytest.raises(UserError, match=re.escape(said)) as told:
        library.read(tmp_path / "mine.lib")
    assert "mine.lib" in str(told.value) and "\n" not in str(told.value)


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    for end in range(0, len(WHOLE.rstrip()), 97):
        file = tmp_path / f"{end}.lib"
        file.write_text(WHOLE[:end])
        with pytest.raises(UserError, match=f"{end}.lib"):
            library.read(file)
