"""The Verilog that puts products in their places and adds several of them up."""

from __future__ import annotations

from .text import Lines, bus, joined, product_bits, register
from .unit import Unit


def shifted(m: str, bits: int, e: str | None, offset: int, dropped: int, largest: int, name: str) -> Lines:
    """Wire `name`: m * 2^(e - offset) less its `dropped` lowest bits."""
    if e is None:
        width = largest.bit_length()
        return [f"  wire {bus(width - dropped)}{name} = {m}[{width - 1}:{dropped}];"]
    width = offset + largest.bit_length()
    wide = f"{{{width - bits}'d0, {m}}}" if width > bits else m
    return [
        f"  wire {bus(width)}wide = {wide} << {e};",
        f"  wire {bus(width - offset - dropped)}{name} = wide[{width - 1}:{offset + dropped}];",
    ]


def align(unit: Unit) -> Lines:
    m, e, offset, _ = joined([unit.a.element.decoder, unit.b.element.decoder])
    bits, largest = product_bits(unit), unit.a.element.largest * unit.b.element.largest
    dropped = 0 if unit.summed_first else unit.register.dropped
    ins = ["input negative", f"input {bus(m)}m"] + [f"input {bus(e)}e"] * bool(e)
    return [
        "// A product at its place in the sum. A negative one is complemented; the missing 1 is a carry of the sum.",
        f"module align({', '.join([*ins, f'output {bus(bits + 1)}y'])});",
        *shifted("m", m, "e" if e else None, offset, dropped, largest, "place"),
        f"  assign y = {{negative, place ^ {{{bits}{{negative}}}}}};",
        "endmodule",
    ]


def total(unit: Unit) -> list[Lines]:
    """The tree of adders: two numbers and a carry in each, so that all carries but the last find a place."""
    bits = product_bits(unit) + 1
    level = [(f"y{i}", bits) for i in range(unit.ways)]
    ins = ", ".join([f"input {bus(unit.ways)}negative", *(f"input {bus(bits)}y{i}" for i in range(unit.ways))])
    adders: dict[int, Lines] = {}
    lines: Lines = []
    count = 0
    while len(level) > 1:
        made = []
        for x, y in zip(level[::2], level[1::2], strict=False):
            w = max(x[1], y[1])
            adders.setdefault(w, _adder(w))
            pins = f".x({_extended(*x, w)}), .y({_extended(*y, w)}), .c(negative[{count}]), .s(s{count})"
            lines += [f"  wire {bus(w + 1)}s{count};", f"  add{w} a{count}({pins});"]
            made.append((f"s{count}", w + 1))
            count += 1
        level = made + level[len(made) * 2 :]
    root, width = level[0]
    return [*adders.values(), [
        "// The sum of the aligned products; the carry of the last one is still missing.",
        f"module total({ins}, output {bus(width)}s);", *lines, f"  assign s = {root};", "endmodule",
    ]]  # fmt: skip


def total_width(unit: Unit) -> int:
    """Of the sum that `total` gives: a bit more at each level of its tree."""
    return product_bits(unit) + 1 + (unit.ways - 1).bit_length()


def _extended(name: str, have: int, want: int) -> str:
    return name if have == want else f"{{{{{want - have}{{{name}[{have - 1}]}}}}, {name}}}"


def _adder(w: int) -> Lines:
    return [
        f"module add{w}(input {bus(w)}x, input {bus(w)}y, input c, output {bus(w + 1)}s);",
        "  // The carry enters as a bit below the numbers.",
        f"  wire {bus(w + 2)}t = {{x[{w - 1}], x, 1'b1}} + {{y[{w - 1}], y, c}};",
        f"  assign s = t[{w + 1}:1];",
        "endmodule",
    ]


def add_total(unit: Unit) -> Lines:
    """Fixed point, several terms: their sum and its last carry are added."""
    r, width = unit.register, total_width(unit)
    return [
        f"module accumulate(input clk, input c, input {bus(width)}s, output reg {bus(r.bits)}acc);",
        f"  wire {bus(r.bits + 1)}sum = {{acc, 1'b1}} + {{{_extended('s', width, r.bits)}, c}};",
        *register(f"sum[{r.bits}:1]"),
        "endmodule",
    ]
