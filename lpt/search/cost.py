"""What a multiplier-accumulator of a format costs: a model in gate equivalents, fitted to syntheses (`lpt/hardware`).

For a format whose values are significand * 2^p, with significands of at most v bits and P different exponents p:

    multiplier   v^2 AND + v (v - 1) FA          array of partial products
    exponent     EXPONENT ceil(log2 P)           sum of two exponents
    alignment    A MUX                           barrel shifter of the product, which grows from stage to stage:
                                                 A = sum over stages s of min(2 v + 2^(s + 1) - 1, W - GUARD)
    accumulator  W ADD                           fixed point, exact: flip-flop, adder, and a XOR to subtract
    decoder      2 operands; see `_decoder`      for formats whose significand changes its width

W is the width of the largest product in units of the smallest, and GUARD bits so that 2^(GUARD - 1) of them can be
summed. An integer has P = 1, and neither exponent nor alignment. Costs are in NAND2 equivalents; AND and EXPONENT (an
adder's bit) are those of typical cells, the other constants are a least-squares fit, by relative error, to syntheses of
the search's 501 formats with exact accumulators (docs/hardware.md says how good). The order of formats depends on the
accumulator: with one that rounds, ask for a synthesis. What both leave out: wires, pipelining, memory (`bits` tells).

A block format has the unit of its elements, and an element's share of what two blocks of n need once, a sketch that is
fitted to nothing: two exponents added, the block's sum shifted and added in FP32, and, where scales are no powers of
two, the product of their significands (u bits: 4 of e4m3 and ue5m3, 24 of fp32) multiplied with the sum.

    scale        (8 EXPONENT + 5 W MUX + 32 ADD + u^2 AND + u (u - 1) FA + 2 u W (AND + FA)) / n
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from ..formats import Blocks, Format, Octaves, Posit

AND, FA, EXPONENT, MUX, ADD, COMPARE, REGIME = 1.33, 6.0, 6.0, 0.94, 14.4, 0.8, 3.5
GUARD = 10


@dataclass(frozen=True)
class Cost:
    """Gate equivalents (NAND2) of one multiplier-accumulator, by part."""

    multiplier: float
    exponent: float
    alignment: float
    accumulator: float
    decoder: float
    scale: float = 0.0

    @property
    def total(self) -> float:
        return self.multiplier + self.exponent + self.alignment + self.accumulator + self.decoder + self.scale


@dataclass(frozen=True)
class Gates:
    """Gate equivalents of one multiplier-accumulator by a synthesis, which knows the whole alone."""

    total: float


Priced = Cost | Gates


def cost(format: Format) -> Cost:
    """The cost of `format`, of at most 256 values or an octave list, or such in blocks.

    Raises:
        ValueError: fp32, which is no list of values here.
    """
    if isinstance(format, Blocks):
        element = cost(format.element)
        return replace(element, scale=_scale(format, element.accumulator / ADD))
    octaves = _octaves(format)
    v = max(octaves.values())
    spacings = [k + 1 - bits for k, bits in octaves.items()]
    positions = max(spacings) - min(spacings) + 1
    largest = round(max(format.high, -format.low) / 2.0 ** min(spacings))
    product, significand = (largest**2).bit_length(), ((2**v - 1) ** 2).bit_length()
    stages = range(_log2(2 * positions - 1))
    return Cost(
        multiplier=v * v * AND + v * (v - 1) * FA,
        exponent=_log2(positions) * EXPONENT,
        alignment=sum(min(significand + 2 ** (s + 1) - 1, product) for s in stages) * MUX,
        accumulator=(product + GUARD) * ADD,
        decoder=2 * _decoder(format),
    )


def _scale(format: Blocks, width: float) -> float:
    """What is done once for two blocks, an element's share; `width` of the block's sum, in bits."""
    u = {"e8m0": 0, "static": 0, "e4m3": 4, "ue5m3": 4}.get(format.scale, 24)
    scales = u * u * AND + u * max(0, u - 1) * FA  # their product
    applied = 2 * u * width * (AND + FA)  # to the sum
    once = 8 * EXPONENT + 5 * width * MUX + 32 * ADD + scales + applied
    return once / format.block[-1]


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


def _decoder(format: Format) -> float:
    """From a code to significand and exponent, one operand.

    A float of fixed fields and an integer need none, gradual underflow included. Every change of the significand's
    width (apart from gradual underflow) needs a comparison of the code's bits. A posit counts its regime's run of equal
    bits and shifts the rest left by it.
    """
    bits = format.bits - 1
    if isinstance(format, Octaves):
        return sum(a != b for a, b in pairwise(_before_tail(format.valid_bits))) * bits * COMPARE
    return bits * _log2(bits) * REGIME if isinstance(format, Posit) else 2**format.bits * COMPARE


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
