"""The Verilog of an accumulator in floating point: 1 + M bits, nearest, ties to even, gradual underflow, saturating.

The term is normalized; the number with the larger exponent stays, the other one is shifted to it with three bits more,
the last of which keeps whether anything was lost; they are added; the sum is normalized and rounded. Shifting left ends
where the exponent field ends, at the smallest spacing: there no bit is lost, so that nothing has to be rounded.
"""

from __future__ import annotations

from .text import Lines, Term, bus, register
from .unit import Unit


def accumulate(unit: Unit, term: Term) -> Lines:
    """The module `accumulate`, and `leading`s that it counts zeros with in front."""
    r = unit.register
    size, field = r.accumulator.size, r.field
    k = max(size + 1, term.m)  # the significands' common width
    n = k + 4  # a carry in front, three bits behind
    d = max(field, (term.largest.bit_length() + size).bit_length(), term.e, (term.offset + term.m).bit_length()) + 2
    counts = {power(n)} | ({power(term.leading + 1)} if term.leading else set())
    lines: Lines = [line for width in sorted(counts) for line in [*_leading(width), ""]]
    ins = ["input clk", "input negative", f"input {bus(term.m)}m"] + [f"input {bus(term.e)}e"] * bool(term.e)
    lines += [
        f"// The accumulator: sign, {field} bits of exponent, {size} of fraction below a hidden one.",
        f"module accumulate({', '.join([*ins, f'output reg {bus(r.bits)}acc'])});",
        *_normalized(term, k, d, size),
        *_operands(k, d, size, field),
        *_aligned(k, d),
        *_added(k, n, d, size, field),
        *register(f"{{sign, rounded[{field + size - 1}:0] | {{{field + size}{{full}}}}}}"),
        "endmodule",
    ]
    return lines


def power(n: int) -> int:
    """The smallest power of two that is not below n, and at least 2."""
    return max(2, 1 << (n - 1).bit_length())


def _leading(width: int) -> Lines:
    """Counts leading zeros by halves: is the upper half empty, and how many are there in the half that is left?"""
    steps = width.bit_length() - 1
    lines = [
        f"// Leading zeros; {width - 1} for a zero, too.",
        f"module leading{width}(input {bus(width)}x, output {bus(steps)}count);",
        f"  wire {bus(width)}x{steps} = x;",
    ]
    for step in reversed(range(steps)):
        half = 1 << step
        lines += [
            f"  wire {bus(half)}high{step} = x{step + 1}[{2 * half - 1}:{half}];",
            f"  assign count[{step}] = ~|high{step};",
            f"  wire {bus(half)}x{step} = count[{step}] ? x{step + 1}[{half - 1}:0] : high{step};",
        ]
    return [*lines, "endmodule"]


def _constant(value: int) -> str:
    return f"{'+' if value >= 0 else '-'} {abs(value)}"


def _normalized(term: Term, k: int, d: int, size: int) -> Lines:
    """The term's leading bit in front, and the exponent field that it would have; at most 0 below the hidden one."""
    constant = term.m - term.offset - size
    e = "$signed({1'b0, e})" if term.e else f"{d}'sd0"
    pad = f", {k - term.m}'d0" if k > term.m else ""
    if not term.leading:
        return [
            f"  wire {bus(k)}term = {{m{pad}}};",
            f"  wire signed {bus(d)}term_field = {e} {_constant(constant)};",
        ]
    width, steps = power(term.leading + 1), power(term.leading + 1).bit_length() - 1
    top = f"m[{term.m - 1}:{term.m - width}]" if width <= term.m else f"{{m, {width - term.m}'d0}}"
    return [
        "  // The term's leading bit goes to the front.",
        f"  wire {bus(steps)}zeros;",
        f"  leading{width} term_zeros(.x({top}), .count(zeros));",
        f"  wire {bus(term.m)}front = m << zeros;",
        f"  wire {bus(k)}term = {{front{pad}}};",
        f"  wire signed {bus(d)}term_field = {e} {_constant(constant)} - $signed({{1'b0, zeros}});",
    ]


def _operands(k: int, d: int, size: int, field: int) -> Lines:
    pad = f", {k - size - 1}'d0" if k > size + 1 else ""
    lowest = f"{{{field - 1}'d0, ~normal}}" if field > 1 else "~normal"
    return [
        "  // The register's number. Field 0 has the exponent of field 1, and no hidden one.",
        f"  wire {bus(field)}stored = acc[{field + size - 1}:{size}];",
        "  wire normal = |stored;",
        f"  wire {bus(k)}own = {{normal, acc[{size - 1}:0]{pad}}};",
        f"  wire signed {bus(d)}own_field = $signed({{1'b0, stored | {lowest}}});",
        "  // The larger exponent stays; a term of zero has none.",
        f"  wire signed {bus(d)}ahead = term_field - own_field;",
        f"  wire larger = ~ahead[{d - 1}] & |ahead & |m;",
        f"  wire {bus(k)}big = larger ? term : own;",
        f"  wire {bus(k)}little = larger ? own : term;",
        f"  wire signed {bus(d)}big_field = larger ? term_field : own_field;",
        f"  wire {bus(d)}distance = larger ? ahead : -ahead;",
    ]


def _aligned(k: int, d: int) -> Lines:
    """The smaller number is shifted; the lowest of its three new bits gathers all that falls out."""
    width, step = k + 3, 0
    lines = [
        "  // Shifted to the larger one's place; the last bit tells whether anything below it was lost.",
        f"  wire {bus(width)}k0 = {{little, 3'd0}};",
    ]
    while (1 << step) < width and step < d:
        by, x = 1 << step, f"k{step}"
        kept = f"{x}[{width - 1}:{by + 1}], " if by < width - 1 else ""
        lines.append(f"  wire {bus(width)}k{step + 1} = distance[{step}] ? {{{by}'d0, {kept}|{x}[{by}:0]}} : {x};")
        step += 1
    far = f"|distance[{d - 1}:{step}]" if step < d else "1'b0"
    lines.append(f"  wire {bus(width)}near = {far} ? {{{width - 1}'d0, |k{step}}} : k{step};")
    return lines


def _added(k: int, n: int, d: int, size: int, field: int) -> Lines:
    """Sum, normalization, rounding."""
    zeros, own_sign = power(n).bit_length() - 1, f"acc[{field + size}]"
    pad = f", {power(n) - n}'d0" if power(n) > n else ""
    return [
        "  // Added or subtracted. A difference is negative only where nothing was lost, so that it may be turned.",
        f"  wire differ = negative ^ {own_sign};",
        f"  wire {bus(n + 2)}sum = {{2'b00, big, 4'b0001}} "
        f"+ {{{{2{{differ}}}}, near ^ {{{k + 3}{{differ}}}}, differ}};",
        f"  wire turned = sum[{n + 1}];",
        f"  wire {bus(n)}absolute = (sum[{n}:1] ^ {{{n}{{turned}}}}) + turned;",
        f"  wire sign = (larger ? negative : {own_sign}) ^ turned;",
        "  // Shifted until its leading bit is in front, or its exponent is the smallest.",
        f"  wire {bus(n)}end_of_range = {{1'b1, {n - 1}'d0}} >> big_field;",
        f"  wire {bus(zeros)}shift;",
        f"  leading{power(n)} sum_zeros(.x({{absolute | end_of_range{pad}}}), .count(shift));",
        f"  wire {bus(n)}normed = absolute << shift;",
        f"  wire signed {bus(d)}full_field = big_field + 1 - $signed({{1'b0, shift}});",
        f"  wire {bus(field + 1)}new_field = normed[{n - 1}] ? full_field[{field}:0] : 0;",
        "  // To nearest, ties to even; a carry moves on into the exponent.",
        f"  wire up = normed[{n - size - 2}] & (normed[{n - size - 1}] | |normed[{n - size - 3}:0]);",
        f"  wire {bus(field + size + 2)}rounded = {{new_field, normed[{n - 2}:{n - size - 1}]}} + up;",
        f"  wire full = |rounded[{field + size + 1}:{field + size}];",
    ]
