"""The Verilog of a unit: a module for each part, so that the cost of a part can be told, and one that joins them.

decode_a, decode_b     from a code to sign, significand, exponent (one module where both formats are the same)
product                of two significands; the sum of two exponents
align                  of several products: each to its place
total                  of several products: their sum
accumulate             the register and what adds to it: fixed point here, floating point in `floating`
"""

from __future__ import annotations

from . import floating
from .decoders import Decoder
from .summing import add_total, align, shifted, total, total_width
from .text import Lines, Term, bus, joined, product_bits, register, total_bits
from .unit import Unit


def source(unit: Unit) -> str:
    """All modules, the joining one last; its name is `unit.name`."""
    term = Term.of(unit)
    modules = [*_decoders(unit), _product(unit)]
    if unit.ways > 1:
        modules += [align(unit), *total(unit)]
    make = floating.accumulate if unit.accumulator.kind == "fp" else _accumulate
    modules.append(make(unit, term) if unit.ways == 1 or unit.summed_first else add_total(unit))
    head = [
        f"// Multiply-accumulate unit: {unit.formats}, accumulator {unit.accumulator}, {unit.ways} "
        f"{'products' if unit.ways > 1 else 'product'} a step.",
        f"// Its numbers are integers times 2^{unit.unit}, at scale 0 of the formats.",
        "// It has no reset: a simulator begins at zero, and a design clears the register as it sees fit.",
        "",
    ]
    return "\n".join([*head, *("\n".join(module) + "\n" for module in modules), "\n".join(_top(unit, term))]) + "\n"


# -- parts ---------------------------------------------------------------------------------------------------------


def _decoders(unit: Unit) -> list[Lines]:
    found: dict[str, Lines] = {}
    for port, operand in unit.ports.items():
        name = decoder_name(unit, port)
        if name in found:
            continue
        d = operand.decoder
        outs = ["output negative"] * d.signed + [f"output {bus(d.m)}m"] + [f"output {bus(d.e)}e"] * bool(d.e)
        found[name] = [
            f"// {operand.name}: number = +-m * 2^(e - {d.offset}) in units of 2^{operand.unit}." if d.e else
            f"// {operand.name}: number = +-m in units of 2^{operand.unit}.",
            f"module {name}(input {bus(d.code_bits)}x, {', '.join(outs)});",
            *(f"  {line}" for line in d.body),
            "endmodule",
        ]  # fmt: skip
    return list(found.values())


def decoder_name(unit: Unit, port: str) -> str:
    """The module that decodes a port."""
    same = unit.a.name == unit.b.name and port.endswith("b")
    return f"decode_{port[:-1] + 'a' if same else port}"


def _product(unit: Unit) -> Lines:
    a, b = unit.a.element.decoder, unit.b.element.decoder
    m, e, _, _ = joined([a, b])
    ins = [f"input {bus(a.code_bits)}a", f"input {bus(b.code_bits)}b"]
    outs = ["output negative", f"output {bus(m)}m"] + [f"output {bus(e)}e"] * bool(e)
    lines = [
        "// A product: significands are multiplied, exponents added.",
        f"module product({', '.join([*ins, *outs])});",
    ]
    for port, d in (("a", a), ("b", b)):
        lines += _instance(decoder_name(unit, port), port, d)
    lines += ["  assign negative = negative_a ^ negative_b;"]
    lines += ["  multiply multiply(.x(m_a), .y(m_b), .m(m));"]
    if a.e and b.e:
        lines += ["  exponent exponent(.x(e_a), .y(e_b), .e(e));"]
    elif e:
        lines += [f"  assign e = e_{'a' if a.e else 'b'};"]
    lines += ["endmodule", "", f"module multiply(input {bus(a.m)}x, input {bus(b.m)}y, output {bus(m)}m);",
              "  assign m = x * y;", "endmodule"]  # fmt: skip
    if a.e and b.e:
        lines += ["", f"module exponent(input {bus(a.e)}x, input {bus(b.e)}y, output {bus(e)}e);",
                  "  assign e = x + y;", "endmodule"]  # fmt: skip
    return lines


def _instance(module: str, port: str, d: Decoder) -> Lines:
    wires = [f"  wire negative_{port};"] * d.signed + [f"  wire {bus(d.m)}m_{port};"]
    wires += [f"  wire {bus(d.e)}e_{port};"] * bool(d.e)
    pins = [f".x({port})"] + [f".negative(negative_{port})"] * d.signed + [f".m(m_{port})"]
    pins += [f".e(e_{port})"] * bool(d.e)
    return [*wires, f"  {module} {port}_({', '.join(pins)});"]


# -- the accumulator -------------------------------------------------------------------------------------------------


def _accumulate(unit: Unit, term: Term) -> Lines:
    """Fixed point, one term: it is put in its place and added or subtracted."""
    r = unit.register
    bits = term.largest.bit_length() - r.dropped
    ins = [f"input {bus(term.m)}m"] + [f"input {bus(term.e)}e"] * bool(term.e)
    lost = [f"  // Of the term's lowest bits {r.dropped} have no place in the register."] if r.dropped else []
    exponent = ", .e(e)" if term.e else ""
    return [
        "// A term at its place in the register.",
        f"module place({', '.join([*ins, f'output {bus(bits)}y'])});",
        *lost,
        *shifted("m", term.m, "e" if term.e else None, term.offset, r.dropped, term.largest, "found"),
        "  assign y = found;",
        "endmodule",
        "",
        "// The accumulator. To subtract, the term is complemented, and the missing 1 enters as a carry.",
        f"module accumulate({', '.join(['input clk', 'input negative', *ins, f'output reg {bus(r.bits)}acc'])});",
        f"  wire {bus(bits)}y;",
        f"  place place(.m(m){exponent}, .y(y));",
        f"  wire {bus(r.bits)}added = {{{{{r.bits - bits}{{negative}}}}, y ^ {{{bits}{{negative}}}}}};",
        f"  wire {bus(r.bits + 1)}sum = {{acc, 1'b1}} + {{added, negative}};",
        *register(f"sum[{r.bits}:1]"),
        "endmodule",
    ]


# -- all together ----------------------------------------------------------------------------------------------------


def _top(unit: Unit, term: Term) -> Lines:
    ports = ["input clk"]
    for port, operand in unit.ports.items():
        ports.append(f"input {bus(operand.bits * (1 if port in unit.scales else unit.ways))}{port}")
    lines = [f"module {unit.name}({', '.join([*ports, f'output {bus(unit.register.bits)}acc'])});"]
    lines += _products(unit)
    t = "_t" if unit.ways > 1 else ""
    pins = [".clk(clk)", f".negative(negative{t})", f".m(m{t})", *[f".e(e{t})"] * bool(term.e)]
    if unit.ways > 1:
        lines += _summed(unit)
        pins = pins if unit.summed_first else [".clk(clk)", f".c(negative[{unit.ways - 1}])", ".s(s)"]
    if unit.summed_first:
        lines += _scaled(unit, term)
    return [*lines, f"  accumulate accumulate({', '.join([*pins, '.acc(acc)'])});", "endmodule"]


def _products(unit: Unit) -> Lines:
    a, b = unit.a.element.decoder, unit.b.element.decoder
    m, e, _, _ = joined([a, b])
    if unit.ways == 1:
        suffix = "_p" if unit.scales else ""
        wires = ["  wire negative;", f"  wire {bus(m)}m{suffix};"]
        wires += [f"  wire {bus(e)}e{suffix};"] * bool(e)
        pins = [".a(a)", ".b(b)", ".negative(negative)", f".m(m{suffix})", *[f".e(e{suffix})"] * bool(e)]
        return [*wires, f"  product product({', '.join(pins)});"]
    lines = [f"  wire {bus(unit.ways)}negative;"]
    width = product_bits(unit) + 1
    for i in range(unit.ways):
        x, y = (f"{p}[{(i + 1) * d.code_bits - 1}:{i * d.code_bits}]" for p, d in (("a", a), ("b", b)))
        lines += [f"  wire {bus(m)}m{i};", f"  wire {bus(width)}y{i};"] + [f"  wire {bus(e)}e{i};"] * bool(e)
        exponent = f", .e(e{i})" if e else ""
        lines += [f"  product p{i}(.a({x}), .b({y}), .negative(negative[{i}]), .m(m{i}){exponent});",
                  f"  align l{i}(.negative(negative[{i}]), .m(m{i}){exponent}, .y(y{i}));"]  # fmt: skip
    return lines


def _summed(unit: Unit) -> Lines:
    ys = ", ".join(f".y{i}(y{i})" for i in range(unit.ways))
    return [f"  wire {bus(total_width(unit))}s;", f"  total total(.negative(negative), {ys}, .s(s));"]


def _scaled(unit: Unit, term: Term) -> Lines:
    """From the sum of the products to the term: its absolute value, times the scales."""
    lines: Lines = []
    factors: Lines = []
    exponents: Lines = []
    negative = "negative"
    if unit.ways > 1:
        width, bits = total_width(unit), total_bits(unit)
        negative = f"whole[{width - 1}]"
        lines = [
            "  // Sign and absolute value of the sum, the last carry added.",
            f"  wire {bus(width)}whole = s + negative[{unit.ways - 1}];",
            f"  wire {bus(width)}absolute = (whole ^ {{{width}{{{negative}}}}}) + {negative};",
        ]
        factors = [f"absolute[{bits - 1}:0]"]
    elif unit.scales:
        d = joined([unit.a.element.decoder, unit.b.element.decoder])
        factors, exponents = ["m_p"], ["e_p"] * bool(d[1])
    else:
        return []
    for port, operand in unit.scales.items():
        lines += _instance(decoder_name(unit, port), port, operand.decoder)
        factors += [f"m_{port}"] * (operand.decoder.m > 1)
        exponents += [f"e_{port}"] * bool(operand.decoder.e)
    if unit.ways > 1:
        lines += [f"  wire negative_t = {negative};"]
    lines += [f"  wire {bus(term.m)}m{'_t' if unit.ways > 1 else ''} = {' * '.join(factors)};"]
    if term.e:
        lines += [f"  wire {bus(term.e)}e{'_t' if unit.ways > 1 else ''} = {' + '.join(exponents)};"]
    return lines
