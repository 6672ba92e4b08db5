"""Units as Verilog: what codes are worth, what a step does, and that another simulator computes the same."""

from __future__ import annotations

import random
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lpt
from lpt.errors import UserError
from lpt.hardware.accumulators import Accumulator, Register, bit_length
from lpt.hardware.netlist import joined, packed, unpacked
from lpt.hardware.operands import BLOCKS, blocks, operand
from lpt.hardware.proof import Cases
from lpt.hardware.unit import Unit
from lpt.hardware.verilog import source

NAMES = ["fp134", "fp152", "int8", "int2", "log4", "posit8_0", "posit8_2", "ocp_e4m3", "ocp_e2m1", "[2x6,3x5,4,3,2,1]"]
iverilog = pytest.mark.skipif(not shutil.which("iverilog"), reason="iverilog is not installed")


# -- codes and numbers -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "int8_full", "fixed8_3"])
def test_a_code_is_worth_what_the_format_says(name: str) -> None:
    format = lpt.formats.get(name)
    found = operand(format)
    worth = {code: Fraction(w) * Fraction(2) ** found.unit for code, w in enumerate(found.worth) if w is not None}
    assert {float(w) for w in worth.values()} == set(format.values().tolist())
    if not found.decoder.twos_complement:  # then the code is that of `encode`
        codes = torch.arange(256, dtype=torch.uint8)
        numbers = format.decode(codes)
        for code, number in zip(codes.tolist(), numbers.tolist(), strict=True):
            small = code % 128 + (code // 128 << found.bits - 1)
            if number == number:
                assert worth[small] == number


def test_twos_complement_where_the_standard_has_it() -> None:
    posit, integer = operand(lpt.formats.get("posit8_1")), operand(lpt.formats.get("int8_full"))
    for found in (posit, integer):
        assert all(found.worth[-code % 256] == -w for code, w in enumerate(found.worth) if w is not None and w != min(
            w for w in found.worth if w is not None))  # fmt: skip
    assert integer.worth[0x80] == -128 and posit.worth[0x80] is None and posit.worth[0x40] == 2**12


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp169"])
def test_wide_formats_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="more than 256"):
        blocks(name)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("fp99",), "fp134"), (("fp134*fp134*fp134",), "two operands"), (("fp134", "fixed:4"), "from 12"),
     (("fp134", "fp:99"), "1 to 52"), (("fp134", "float"), "exact, fixed:T"), (("fp134", "exact", 0), "from 1 to 64"),
     (("mxfp4", "exact", 5), "divide"), (("mxfp4", "fixed:32"), "no fixed point"), (("mxfp5",), "mxfp4")],
)  # fmt: skip
def test_mistakes_are_told(arguments: tuple, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Unit.read(*arguments)


# -- accumulators -----------------------------------------------------------------------------


def nearest(number: int, bits: int) -> int:
    """To `bits` significant bits, ties to even, by fractions."""
    unit = 1 << max(0, abs(number).bit_length() - bits)
    return round(Fraction(number, unit)) * unit


@given(st.integers(1, 12), st.integers(1, 2**20), st.data())
@settings(max_examples=60, deadline=None)
def test_a_floating_step_rounds_the_exact_sum(size: int, largest: int, data: st.DataObject) -> None:
    register = Register(Accumulator("fp", size), largest)
    state = np.array(data.draw(st.lists(st.integers(0, 2**register.bits - 1), min_size=4, max_size=4)), register.dtype)
    term = np.array([data.draw(st.lists(st.integers(-largest, largest), min_size=4, max_size=4))], register.dtype)
    most = max(register.value(np.array([2 ** (register.bits - 1) - 1], register.dtype)))
    for value, step, t in zip(register.value(state), register.step(state, term), term[0], strict=True):
        exact = nearest(int(value) + int(t), size + 1)
        assert int(step) == max(-most, min(most, exact))
        assert register.value(register.code(np.array([step], register.dtype)))[0] == step


@given(st.integers(12, 70), st.integers(1, 2**40), st.data())
@settings(max_examples=60, deadline=None)
def test_a_fixed_step_drops_bits_towards_zero_and_wraps(size: int, largest: int, data: st.DataObject) -> None:
    register = Register(Accumulator("fixed", size), largest)
    state = np.array([data.draw(st.integers(0, 2**size - 1))], register.dtype)
    terms = np.array([[data.draw(st.integers(-largest, largest))] for _ in range(3)], register.dtype)
    unit = 2**register.dropped
    total = int(register.value(state)[0]) // unit + sum(int(abs(t[0])) // unit * (1 if t[0] > 0 else -1) for t in terms)
    assert (int(register.step(state, terms)[0]) // unit - total) % 2**size == 0
    assert -(2 ** (size - 1)) <= int(register.step(state, terms)[0]) // unit < 2 ** (size - 1)


def test_numbers_become_words_and_back() -> None:
    for bits, dtype in ((40, np.int64), (40, object), (90, object)):
        numbers = np.array([random.Random(bits).getrandbits(bits) for _ in range(128)], dtype)
        assert (unpacked(packed(numbers, bits), dtype) == numbers).all()
    assert joined(np.array([[1, 0], [1, 1]]), np.int64).tolist() == [3, 2]
    edges = np.array([0, 1, 2**31 - 1, 2**31, 2**53 - 1, 2**61 - 1])
    assert bit_length(edges).tolist() == [int(e).bit_length() for e in edges]


# -- another simulator -----------------------------------------------------------------------------

UNITS = [
    ("fp134", "exact", 1), ("log4*fp134", "fp:5", 1), ("posit8_1", "fp:9", 1), ("[2x6,3x5,4,3,2,1]", "fixed:20", 1),
    ("int8_full*ocp_e4m3", "fp:23", 4), ("fp134", "fixed:24", 3), ("nvfp4", "exact", 4), ("mxfp4", "fp:9", 1),
    ("mxfp8_e4m3*mxfp4", "exact", 2), ("[3,4,5,2]*posit8_0", "exact", 1), ("int2", "fp:1", 1),
]  # fmt: skip


@iverilog
@pytest.mark.parametrize("unit", UNITS, ids=["-".join(map(str, unit)) for unit in UNITS])
def test_another_simulator_computes_the_same(tmp_path: Path, unit: tuple) -> None:
    made = Unit.read(*unit)
    cases = Cases.of(made, rounds=5, seed=1)
    chosen = np.random.default_rng(0).choice(len(cases.state), 1500, replace=False)
    lines, names = [], list(made.ports)
    for i in chosen:
        words = []
        for port in names:
            bits = made.ports[port].bits
            values = np.atleast_2d(cases.codes[port])[:, i]
            words.append(sum(int(v) << bits * w for w, v in enumerate(values)))
        lines.append(" ".join(f"{word:x}" for word in [*words, int(cases.state[i])]))
    (tmp_path / "cases").write_text("\n".join(lines) + "\n")
    widths = {p: o.bits * (1 if p in made.scales else made.ways) for p, o in made.ports.items()}
    state = made.register.bits
    ports = "".join(f"reg [{w - 1}:0] {p}; " for p, w in widths.items())
    bench = f"""
module bench; {ports} reg [{state - 1}:0] s; wire [{state - 1}:0] acc; reg clk = 0; integer f, n;
{made.name} dut(.clk(clk), {", ".join(f".{p}({p})" for p in names)}, .acc(acc));
initial begin f = $fopen("cases", "r"); #1;
while (!$feof(f)) begin n = $fscanf(f, "{"%h " * (len(names) + 1)}\\n", {", ".join([*names, "s"])});
if (n == {len(names) + 1}) begin dut.accumulate.acc = s; #1 clk = 1; #1 clk = 0; $display("%h", acc); end end $finish;
end endmodule"""
    (tmp_path / "bench.v").write_text(source(made) + bench)
    subprocess.run(["iverilog", "-Wall", "-o", "bench", "bench.v"], cwd=tmp_path, check=True, capture_output=True)
    out = subprocess.run(["vvp", "bench"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()
    found = np.array([int(line, 16) for line in out], made.register.dtype)
    assert (made.register.value(found) == cases.expected[chosen]).all()


def test_every_kind_of_block_has_a_unit() -> None:
    for name in BLOCKS:
        text = source(Unit.read(name, "fp:9", 16))
        assert "scale_a" in text and text.count("product p") == 16
