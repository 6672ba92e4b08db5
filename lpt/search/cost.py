"""What a multiplier-accumulator of a format costs: a model in gate equivalents, not the result of a synthesis.

For a format whose values are significand * 2^p, with significands of at most v bits and P different exponents p:

    multiplier   v^2 AND + v (v - 1) FA                      array of partial products
    exponent     2 ceil(log2 P) FA                           sum of two exponents, and its place in the accumulator
    alignment    W ceil(log2(2 P - 1)) MUX                   barrel shifter of the product to W bits
    accumulator  W (FA + XOR + FF)                           fixed point, exact: no product loses a bit
    decoder      2 operands; see `_decoder`                  for formats whose significand changes its width

W = 2 (exponent of the largest value + 1 - exponent of the smallest spacing) + GUARD: every product, and GUARD bits so
that 2^GUARD of them can be summed. An integer has P = 1, and neither exponent nor alignment. Costs of cells in
NAND2 equivalents are typical of standard-cell libraries: AND 1.33, MUX 2.33, XOR 2.33, FF 5, FA 6. What the model
leaves out: wires, timing, pipelining, accumulators that round, memory (which `bits` tells).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from ..formats import Format, Octaves, Posit

AND, MUX, XOR, FF, FA = 1.33, 2.33, 2.33, 5.0, 6.0
GUARD = 10


@dataclass(frozen=True)
class Cost:
    """Gate equivalents (NAND2) of one multiplier-accumulator, by part."""

    multiplier: float
    exponent: float
    alignment: float
    accumulator: float
    decoder: float

    @property
    def total(self) -> float:
        return self.multiplier + self.exponent + self.alignment + self.accumulator + self.decoder


@dataclass(frozen=True)
class Gates:
    """Gate equivalents of one multiplier-accumulator by a synthesis, which knows the whole alone."""

    total: float


Priced = Cost | Gates


def cost(format: Format) -> Cost:
    """The cost of `format`, of at most 256 values or an octave list.

    Raises:
        ValueError: fp32, which is no list of values here.
    """
    octaves = _octaves(format)
    v = max(octaves.values())
    spacings = [k + 1 - bits for k, bits in octaves.items()]
    positions = max(spacings) - min(spacings) + 1
    width = 2 * (max(octaves) + 1 - min(spacings)) + GUARD
    return Cost(
        multiplier=v * v * AND + v * (v - 1) * FA,
        exponent=2 * _log2(positions) * FA,
        alignment=width * _log2(2 * positions - 1) * MUX,
        accumulator=width * (FA + XOR + FF),
        decoder=2 * _decoder(format, octaves),
    )


def _octaves(format: Format) -> dict[int, int]:
    """Valid bits by octave, the exponent k of [2^k, 2^(k+1))."""
    if isinstance(format, Octaves):
        return {format.top_exponent - i: v for i, v in enumerate(format.valid_bits)}
    counts: dict[int, int] = {}
    for value in format.values().tolist():
        if value > 0:
            octave = math.frexp(value)[1] - 1
            counts[octave] = counts.get(octave, 0) + 1
    return {k: 1 + _log2(n) for k, n in counts.items()}


def _decoder(format: Format, octaves: dict[int, int]) -> float:
    """From a code to significand and exponent, one operand.

    A float of fixed fields and an integer need none, gradual underflow included. Every change of the significand's
    width (apart from gradual underflow) needs a comparator of the code (bits FA), and there is a shifter that puts
    the exponent's and the significand's bits where they belong. A posit counts its regime's run of equal bits
    (a XOR and an AND a bit) and shifts the rest left by it.
    """
    bits = format.bits - 1
    if not isinstance(format, Octaves):
        regime = bits * (XOR + AND) if isinstance(format, Posit) else 0.0
        return regime + bits * _log2(bits) * MUX + _log2(len(octaves)) * FA
    changes = sum(a != b for a, b in pairwise(_before_tail(format.valid_bits)))
    return changes * bits * FA + bits * _log2(changes + 1) * MUX


def _before_tail(valid: tuple[int, ...]) -> tuple[int, ...]:
    """The list without its gradual underflow, the tail v - 1, v - 2, ..., 1 of octaves with one common spacing."""
    end = len(valid)
    if valid[-1] != 1:
        return valid
    while end > 1 and valid[end - 2] == valid[end - 1] + 1:
        end -= 1
    return valid[:end]


def _log2(count: int) -> int:
    """Bits that tell `count` things apart."""
    return (count - 1).bit_length()
