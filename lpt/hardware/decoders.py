"""Verilog that takes a code apart into sign, significand and exponent, one function for each kind of format.

Each writes the body of a module with the input `x` and the outputs `negative` (1 bit), `m` (significand) and `e`
(exponent); the number is +-m * 2^(e - offset) in units of the format's smallest spacing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Decoder:
    """A module's body and the widths of what it gives.

    Attributes:
        code_bits: width of `x`.
        m, e: widths of significand and exponent; e = 0 where all numbers have one exponent.
        offset: what `e` counts too much.
        largest_e: the largest exponent that a code has.
        leading: how many leading zeros a significand that is not zero may have.
        body: lines of Verilog.
        signed: False where no number is negative, and there is no `negative`.
        twos_complement: the code of -x is the two's complement of that of x.
        minus_zero: the sign bit alone means zero.
    """

    code_bits: int
    m: int
    e: int
    offset: int
    largest_e: int
    leading: int
    body: tuple[str, ...]
    signed: bool = True
    twos_complement: bool = False
    minus_zero: bool = True


def twos_complement(bits: int) -> Decoder:
    """An integer in two's complement: its magnitude, of as many bits, since -2^(bits - 1) is one of them."""
    body = (
        "// An integer in two's complement: its absolute value.",
        f"assign negative = x[{bits - 1}];",
        f"assign m = (x ^ {{{bits}{{negative}}}}) + negative;",
    )
    return Decoder(bits, bits, 0, 0, 0, bits - 1, body, twos_complement=True)


def power_of_two(bits: int) -> Decoder:
    """A scale that is an exponent and nothing else."""
    body = ("// A power of two: the code is its exponent.", "assign m = 1'b1;", "assign e = x;")
    return Decoder(bits, 1, bits, 0, 2**bits - 2, 0, body, signed=False)


@dataclass(frozen=True)
class Rule:
    """Codes from `first` on: v - 1 bits of fraction below a hidden one, above them the exponent.

    With q = code - start the exponent is (q >> (v - 1)) + constant; `start` is what is left of `first` when multiples
    of an octave's length go into the constant.
    """

    first: int
    v: int
    start: int
    constant: int


def octaves(valid_bits: Sequence[int], signed: bool = True) -> Decoder:
    """Valid bits per octave, the largest octave first, coded by sign and rank.

    Codes of gradual underflow (the tail v - 1, ..., 2, 1) are their own significand. Every run of octaves of one
    width is one rule, as the normal numbers of a float are.
    """
    valid = list(reversed(valid_bits))
    lowest = min(j + 1 - v for j, v in enumerate(valid))
    tail = 0  # octaves of gradual underflow: those whose spacing is that of the smallest, without a hidden one
    while tail + 1 < len(valid) and valid[tail] == tail + 1 and valid[tail + 1] == tail + 2:
        tail += 1
    rules = _rules(valid, tail, lowest)
    largest = max(j + 1 - v for j, v in enumerate(valid)) - lowest
    m, e = max(valid), largest.bit_length()
    # An offset under which most rules need no adder, as a float's bias is chosen, if it needs no bit more.
    offset = min(
        (o for o in range(len(valid) + 1) if e and (largest + o).bit_length() == e),
        key=lambda o: (sum(rule.constant + o != 0 for rule in rules), o),
        default=0,
    )
    bits = (sum(2 ** (v - 1) for v in valid)).bit_length()
    body = [f"// {_told(valid_bits)} valid bits per octave."]
    body += [f"assign negative = x[{bits}];"] * signed + [f"wire [{bits - 1}:0] c = x[{bits - 1}:0];"]
    body += _octave_lines(rules, tail, bits, m, e, offset, offset - lowest)
    leading = m - 1 if tail else m - min(valid)
    return Decoder(bits + signed, m, e, offset, largest + offset, leading, tuple(body), signed)


def _rules(valid: list[int], tail: int, lowest: int) -> list[Rule]:
    """One for each run of octaves of equal width above the first `tail`, smallest first."""
    rules: list[Rule] = []
    code = 1
    for j, v in enumerate(valid):
        if j >= tail and (j == tail or v != valid[j - 1]):
            start = code % 2 ** (v - 1)
            rules.append(Rule(code, v, start, j + 1 - v - lowest - (code >> (v - 1))))
        code += 2 ** (v - 1)
    return rules


def _octave_lines(rules: list[Rule], tail: int, bits: int, m: int, e: int, offset: int, lowest: int) -> list[str]:
    """Significand and exponent by rule, the highest first; `lowest` is the exponent of gradual underflow."""
    if e == 0 and len(rules) == 1 and rules[0].first == 2 ** (rules[0].v - 1):
        return ["// One exponent for all of them: the code is the significand.", f"assign m = c[{m - 1}:0];"]
    lines, significands, exponents = [], "", ""
    for number, rule in reversed(list(enumerate(rules))):
        test, q, constant = f"c >= {bits}'d{rule.first} ? ", "c", rule.constant + offset
        if rule.start:
            q = f"q{number}"
            lines.append(f"wire [{bits - 1}:0] {q} = c - {bits}'d{rule.start};")
        significands += f"{test}{{{m - rule.v + 1}'d1{f', {q}[{rule.v - 2}:0]' if rule.v > 1 else ''}}} : "
        if e:
            added = f" {'+' if constant > 0 else '-'} {abs(constant)}" if constant else ""
            lines.append(f"wire [{e - 1}:0] e{number} = {q}[{bits - 1}:{rule.v - 1}]{added};")
        # (Zero may have any exponent, so that the lowest rule is not tested where only zero lies below it.)
        exponents += f"e{number}" if number == 0 and not tail else f"{test}e{number} : "
    lines.append(f"assign m = {significands}{f'c[{tail - 1}:0]' if tail else '0'};")
    if e:
        lines.append(f"assign e = {exponents}{f'{e}{chr(39)}d{lowest}' if tail else ''};")
    return lines


def posit(bits: int, es: int) -> Decoder:
    """A posit: the run of equal bits behind the sign is counted and shifted out.

    With n = bits - 1 bits behind the sign, the regime of a run of r bits is r - 1 (ones) or -r (zeros); above zero
    regimes are coded by `{1, r - 1}` and below by `{0, ~(r - 1)}`, which is the regime plus a power of two, so that no
    adder is needed.
    """
    n = bits - 1
    count = (n - 1).bit_length()  # bits of the run's length less 1, from 0 to n - 1
    fraction = max(0, n - 2 - es)
    zeros = f"{{{n}{{negative}}}}"
    body = [
        f"// A posit of {bits} bits, {es} of them exponent. Negative ones are the two's complement of their opposite.",
        f"assign negative = x[{n}];",
        f"wire [{n - 1}:0] c = (x[{n - 1}:0] ^ {zeros}) + negative;",
        "// Behind the run's first bit, equal bits become zeros: their number is the run's length less 1.",
        f"wire [{n - 2}:0] t = c[{n - 2}:0] ^ {{{n - 1}{{c[{n - 1}]}}}};",
        f"reg [{count - 1}:0] run;",
        "always @* begin",
        *(f"  {'' if k == 0 else 'else '}if (t[{n - 2 - k}]) run = {count}'d{k};" for k in range(n - 1)),
        f"  else run = {count}'d{n - 1};",
        "end",
        "// The run and the bit that ends it are shifted out; exponent and fraction are left.",
        f"wire [{n - 2}:0] rest = c[{n - 2}:0] << run;",
        f"wire [{n - 2}:0] tail = rest << 1;",
        f"wire [{count - 1}:0] regime = run ^ {{{count}{{~c[{n - 1}]}}}};",
        f"assign m = {{c != {n}'d0{f', tail[{n - 2 - es}:1]' if fraction else ''}}};",
        f"assign e = {{c[{n - 1}], regime{f', tail[{n - 2}:{n - 1 - es}]' if es else ''}}};",
    ]
    smallest = -(n - 1) * 2**es  # exponent of the smallest number, which is the unit
    bias = 2**count * 2**es
    largest = bias + (n - 1) * 2**es
    return Decoder(bits, 1 + fraction, 1 + count + es, bias + smallest + fraction, largest, 0, tuple(body),
                   twos_complement=True)  # fmt: skip


def table(positive: Sequence[int], negative: Sequence[int], signed: bool = True) -> Decoder:
    """Any numbers, by a case for each code; a code without meaning is zero.

    Args:
        positive: zero and what lies above it, ascending, in units.
        negative: zero and the absolute values of what lies below, ascending.
    """
    symmetric = list(positive) == list(negative) or not signed
    rank_bits = max(len(positive) - 1, min(len(negative) - 1, 127)).bit_length()
    m_bits = max((_odd(n).bit_length() for n in (*positive, *negative) if n), default=1)
    split = {n: max(0, n.bit_length() - m_bits) for n in (*positive, *negative)}
    largest = max(split.values())
    e = largest.bit_length()
    leading = max(m_bits - (n >> s).bit_length() for n, s in split.items() if n)

    def case(width: int, code: int, n: int) -> str:
        return f"  {width}'d{code}: found = {{{m_bits}'d{n >> split[n]}{f', {e}{chr(39)}d{split[n]}' if e else ''}}};"

    bits = rank_bits + signed
    if symmetric:
        head, width = f"x[{rank_bits - 1}:0]", rank_bits
        cases = [case(width, rank, n) for rank, n in enumerate(positive) if n]
    else:
        head, width, half = "x", bits, 1 << rank_bits
        cases = [case(width, rank, n) for rank, n in enumerate(positive) if n]
        cases += [case(width, half + rank % half, n) for rank, n in enumerate(negative) if n]
    body = [
        "// A table of values.",
        *([f"assign negative = x[{rank_bits}];"] if signed else []),
        f"reg [{m_bits + e - 1}:0] found;  // significand, exponent",
        f"always @* case ({head})",
        *cases,
        "  default: found = 0;",
        "endcase",
        f"assign m = found[{m_bits + e - 1}:{e}];",
        *([f"assign e = found[{e - 1}:0];"] if e else []),
    ]
    return Decoder(bits, m_bits, e, 0, largest, leading, tuple(body), signed, minus_zero=symmetric)


def _odd(number: int) -> int:
    """What is left of a number when factors of two are taken out."""
    return number // (number & -number)


def _told(valid_bits: Sequence[int]) -> str:
    """Runs of equal entries folded: 7x5, 4, 3."""
    runs: list[list[int]] = [[valid_bits[0], 1]]
    for a, b in pairwise(valid_bits):
        if a == b:
            runs[-1][1] += 1
        else:
            runs.append([b, 1])
    return ", ".join(f"{n}x{v}" if n > 1 else f"{v}" for v, n in runs)
