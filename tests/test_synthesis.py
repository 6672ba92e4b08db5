"""Synthesis by pyosys: netlists are proven, planted faults are found, figures have the order that they must have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lpt
from lpt.formats import Format, Table
from lpt.hardware import figures, library, yosys
from lpt.hardware.accumulators import Accumulator
from lpt.hardware.library import Cell
from lpt.hardware.netlist import Machine, Netlist, packed, unpacked
from lpt.hardware.operands import Blocks, blocks, operand
from lpt.hardware.parts import of_library, seven_series
from lpt.hardware.proof import Cases
from lpt.hardware.synthesis import Workshop
from lpt.hardware.unit import Unit
from lpt.hardware.verilog import source
from lpt.search.cost import cost

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


numbers = st.builds(lambda m, e: m * 2.0**e, st.integers(-40, 40), st.integers(-3, 2))
tables = st.sets(numbers.filter(bool), min_size=1, max_size=6).map(lambda v: Table("table", sorted(v | {0.0})))
lists = st.lists(st.integers(1, 5), min_size=1, max_size=6).map(lpt.formats.get).filter(lambda f: f.bits <= 7)


@given(st.one_of(tables, lists), st.sampled_from(["int3", "posit8_0", "ocp_e2m1"]),
       st.sampled_from(["exact", "fixed:16", "fp:3"]), st.sampled_from([1, 3]))  # fmt: skip
@settings(max_examples=4, deadline=None, derandomize=True)
def test_any_list_and_any_table_makes_a_unit(format: Format, other: str, accumulator: str, ways: int) -> None:
    unit = Unit(Blocks("own", operand(format)), blocks(other), Accumulator.read(accumulator), ways)
    assert Cases.of(unit, rounds=5).wrong(Machine(mapped(unit), PARTS)) == 0


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


def test_figures_of_one_unit() -> None:
    unit = Unit.read("log3*int3", "fixed:12")
    text = source(unit)
    machine = Machine(yosys.cells(text, unit.name, OWN)[unit.name], PARTS)
    whole, parts = figures.area(machine.netlist, OWN), figures.by_part(
        yosys.cells(text, unit.name, OWN, flatten=False), unit.name, OWN
    )  # fmt: skip
    assert whole < sum(parts.values()) < 1.4 * whole and parts["accumulator"] > 12 * OWN.cells["DFF"].area
    assert all(parts[part] > 0 for part in ("decoder", "multiplier", "alignment")) and parts["exponent"] == 0
    assert figures.transistors(machine.netlist, OWN) > 12 * 24 and figures.delay(machine, OWN) > 5
    # Nothing moves, nothing is spent but the clock; what moves more costs more.
    still = {"a": np.zeros((3, 8), np.uint64), "b": np.zeros((3, 8), np.uint64), "clk": np.zeros((1, 8), np.uint64)}
    random = np.random.default_rng(0).integers(0, 2**63, (3, 8)).astype(np.uint64)
    state = np.zeros((12, 8), np.uint64)
    spent = [figures.energy(machine, OWN, still | {"a": a}, state, 1, 7 * 64) for a in (random * np.uint64(0), random)]
    assert spent[0] == 12 * OWN.cells["DFF"].inputs["CK"] < spent[1]


def test_a_users_library_gives_areas_and_no_more(tmp_path: Path) -> None:
    file = tmp_path / "mine.lib"
    kept = [cell for cell in library.CELLS if cell.name in ("INV", "BUF", "NAND2", "NOR2", "DFF")]
    file.write_text(
        re.sub(r"lpt_\w+ : .*?;", "", library.text(kept))
        .replace("area : 1.0", "area : 3.0")
        .replace('function : "IQ"; }', 'function : "IQ"; }\n    pin (QN) { direction : output; function : "IQN"; }')
    )
    costs = Workshop(tmp_path, file).costs(Unit.read("log2*int3", "fixed:12"))
    assert costs["gates"] > 12 * 5 / 3 and costs["delay"] is None and costs["transistors"] is None
    assert costs["pairs"] == 4 * 8 and costs["cases"] >= 5 * 4096


def test_a_wrong_netlist_has_no_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = Unit.read("log2*int3", "fixed:12")
    right = mapped(unit)
    _, _, faulty = next(found for found in exchanges(right) if Cases.of(unit).wrong(Machine(found[2], PARTS)))
    monkeypatch.setattr(yosys, "cells", lambda *_, **__: {unit.name: faulty})
    with pytest.raises(figures.Unproven, match="no figure"):
        Workshop(tmp_path).costs(unit)
    assert not list(tmp_path.iterdir())


def test_the_model_is_near_the_syntheses() -> None:
    names = ["fp134", "fp143", "log4", "int6", "[5,4,3,3x1]", "posit8_0"]
    ratios = [cost(lpt.formats.get(name)).total / area(name) for name in names]
    assert all(0.85 < ratio < 1.15 for ratio in ratios), dict(zip(names, ratios, strict=True))
