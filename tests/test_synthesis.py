"""Synthesis by pyosys: netlists are proven, planted faults are found, figures have the order that they must have."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from lpt.hardware import library, yosys
from lpt.hardware.library import Cell
from lpt.hardware.netlist import Machine, Netlist, packed, unpacked
from lpt.hardware.parts import of_library, seven_series
from lpt.hardware.proof import Cases
from lpt.hardware.unit import Unit
from lpt.hardware.verilog import source

pytestmark = pytest.mark.skipif(not yosys.available(), reason="pyosys is not installed (pip install -e '.[hardware]')")
OWN = library.read()
PARTS = of_library(OWN)


def mapped(unit: Unit) -> Netlist:
    return yosys.cells(source(unit), unit.name, OWN)[unit.name]


def area(*arguments: object) -> float:
    return sum(OWN.cells[kind].area * n for kind, n in mapped(Unit.read(*arguments)).count().items())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [("fp134", "exact", 1), ("log4*fp134", "fixed:20", 3), ("posit8_0", "fp:5", 1), ("nvfp4", "fp:9", 2),
     ("[2x6,3x5,4,3,2,1]*int4", "exact", 1)],
    ids=str,
)  # fmt: skip
def test_a_netlist_of_cells_computes_what_the_unit_says(arguments: tuple) -> None:
    unit = Unit.read(*arguments)
    cases = Cases.of(unit, rounds=5)
    assert cases.pairs == len(unit.a.element.codes) * len(unit.b.element.codes)
    assert cases.wrong(Machine(mapped(unit), PARTS)) == 0


def exchanges(netlist: Netlist) -> Iterator[tuple[int, Cell, Netlist]]:
    """Every netlist in which one cell stands for another of as many inputs."""
    for index, instance in enumerate(netlist.instances):
        old = OWN.cells[instance.kind]
        for new in OWN.cells.values():
            if not old.data and not new.data and new.name != old.name and len(new.inputs) == len(old.inputs):
                pins = dict(zip([*old.inputs, old.output], [*new.inputs, new.output], strict=True))
                yield index, new, netlist.exchanged(index, new.name, pins)


@pytest.mark.parametrize("arguments", [("int3", "fp:2"), ("log2*int3", "fixed:12")], ids=str)
def test_every_planted_fault_is_found(arguments: tuple) -> None:
    """Whatever the proof lets pass is no fault: these units are small enough for all codes with all states."""
    unit = Unit.read(*arguments)
    netlist, cases = mapped(unit), Cases.of(unit)
    a, b, states = (x.ravel() for x in np.meshgrid(
        unit.a.element.codes, unit.b.element.codes, np.arange(2**unit.register.bits), indexing="ij"))  # fmt: skip
    assert len(states) % 64 == 0
    expected = unit.step(states, {"a": a[None], "b": b[None]})
    words = {"a": packed(a, unit.a.element.bits), "b": packed(b, unit.b.element.bits)}
    words["clk"], packed_states = np.zeros((1, len(states) // 64), np.uint64), packed(states, unit.register.bits)
    found = passed = 0
    for _, _, faulty in exchanges(netlist):
        machine = Machine(faulty, PARTS)
        if cases.wrong(machine):
            found += 1
        else:
            passed += 1
            after = unpacked(machine.next(words, packed_states), np.int64)
            assert (unit.register.value(after) == expected).all()
    assert found > 20 * passed > 0


def test_states_that_sums_reach_would_not_find_them_all() -> None:
    """Why states are random: from zero, sums of one step leave a fault in the upper carries unseen."""
    unit = Unit.read("log4")
    cases = Cases.of(unit)
    zero = Cases(unit, cases.codes, cases.state * 0, unit.step(cases.state * 0, cases.codes), cases.words,
                 cases.state_words * np.uint64(0), cases.pairs)  # fmt: skip
    faults = [Machine(faulty, PARTS) for index, _, faulty in exchanges(mapped(unit)) if index % 9 == 0]
    assert sum(bool(zero.wrong(m)) for m in faults) < sum(bool(cases.wrong(m)) for m in faults)


def test_a_netlist_of_look_up_tables_computes_what_the_unit_says() -> None:
    unit = Unit.read("int3*log3", "fixed:14")
    netlist = yosys.luts(source(unit), unit.name)[unit.name]
    kinds = netlist.count()
    assert "CARRY4" in kinds and any(kind.startswith("LUT") for kind in kinds) and "DSP48E1" not in kinds
    assert Cases.of(unit).wrong(Machine(netlist, seven_series)) == 0


def test_costs_have_the_order_that_they_must_have() -> None:
    exact = {name: area(name) for name in ("fp134", "fp143", "int8", "log4", "log4*fp134")}
    assert exact["log4"] < exact["log4*fp134"] < 0.8 * exact["fp134"]
    assert exact["int8"] < exact["fp134"] < 0.9 * exact["fp143"]
    # With accumulators of one width the order of FP134 and FP143 turns.
    assert area("fp143", "fixed:24") < area("fp134", "fixed:24") < exact["fp134"]


def test_a_failed_synthesis_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="syntax"):
        yosys.cells("module x(", "x", OWN)
