"""What the modules of a unit agree on: widths, the term that a step adds, and how a register is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .decoders import Decoder
from .unit import Unit

Lines = list[str]


@dataclass(frozen=True)
class Term:
    """What one step hands to the accumulator: +-m * 2^(e - offset).

    Attributes:
        m, e: widths; e = 0 where all terms have one exponent.
        offset: what e counts too much.
        leading: how many leading zeros an m that is not zero may have.
        largest: the largest absolute value, in units.
    """

    m: int
    e: int
    offset: int
    leading: int
    largest: int

    @classmethod
    def of(cls, unit: Unit) -> Term:
        product = [unit.a.element.decoder, unit.b.element.decoder]
        scales = [scale.decoder for scale in unit.scales.values()]
        largest = unit.register.largest
        if unit.ways == 1:
            return cls(*joined([*product, *scales]), largest)
        bits = total_bits(unit)
        m, e, offset, _ = joined(scales)
        bits += m if m > 1 else 0  # a factor of 1 takes no place
        return cls(bits, e, offset, bits - 1, largest * unit.ways)


def joined(decoders: Sequence[Decoder]) -> tuple[int, int, int, int]:
    """m, e, offset and leading of a product."""
    most, least = 1, 1
    for d in decoders:
        most *= 2**d.m - 1
        least *= 2 ** (d.m - 1 - d.leading)
    m = most.bit_length()
    return m, sum(d.largest_e for d in decoders).bit_length(), sum(d.offset for d in decoders), m - least.bit_length()


def product_bits(unit: Unit) -> int:
    """Of the absolute value of a product of two elements, aligned."""
    whole = (unit.a.element.largest * unit.b.element.largest).bit_length()
    return whole - (0 if unit.summed_first else unit.register.dropped)


def total_bits(unit: Unit) -> int:
    """Of the absolute value of the sum of a step's products."""
    return (unit.a.element.largest * unit.b.element.largest * unit.ways).bit_length()


def bus(width: int) -> str:
    return f"[{width - 1}:0] "


def register(following: str) -> Lines:
    """The register, which a simulator begins at zero."""
    return [
        f"  always @(posedge clk) acc <= {following};",
        "`ifndef SYNTHESIS",
        "  initial acc = 0;",
        "`endif",
    ]
