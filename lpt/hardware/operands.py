"""What hardware sees of a number format: which integer each code is worth, and how a code is taken apart.

A format of at most 256 values is a table from codes to integers, in units of its smallest spacing. Its decoder (see
`decoders`) gives sign, significand and exponent with worth = +-significand * 2^(exponent - offset). The code is the
one of `Format.encode`, sign and magnitude; posits and intN_full are in two's complement, as their standards say.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from .. import formats
from ..errors import UserError
from ..formats import Format, Octaves, Posit
from ..formats.names import per_tensor
from . import decoders
from .decoders import Decoder


@dataclass(frozen=True)
class Operand:
    """One operand of a multiplier.

    Attributes:
        name: as `lpt.formats.get` reads it.
        bits: width of its code.
        worth: by code, an integer in units of 2^unit; None for a code without meaning.
        unit: exponent of the smallest spacing at scale 0.
        decoder: Verilog from a code to sign, significand and exponent.
    """

    name: str
    bits: int
    worth: tuple[int | None, ...] = field(repr=False)
    unit: int
    decoder: Decoder = field(repr=False)

    @property
    def codes(self) -> list[int]:
        """The codes that mean a number."""
        return [code for code, worth in enumerate(self.worth) if worth is not None]

    @property
    def largest(self) -> int:
        return max(abs(worth) for worth in self.worth if worth is not None)

    def code(self, rank: int) -> int:
        """The code of the value with this rank, counted from zero on the signed axis."""
        if self.decoder.twos_complement:
            return rank % 2**self.bits
        return rank if rank >= 0 else 2 ** (self.bits - 1) + -rank % 2 ** (self.bits - 1)


def operand(format: Format, signed: bool = True) -> Operand:
    """The operand that a format makes; with `signed` False, its numbers from zero upward alone (a scale, say).

    Raises:
        UserError: a format of more than 256 values.
    """
    if format.bits > 8:
        raise UserError(
            f"{format.name} has more than 256 values: hardware is made for formats of at most 8 bits, and for "
            "accumulators of any width (accumulator=fp:7 adds up in eight significant bits, as bf16 does)"
        )
    levels = [Fraction(v) for v in format.values().tolist()]
    zero = levels.index(Fraction(0))
    unit = min(_exponent(level) for level in levels if level)
    integers = [int(level / Fraction(2) ** unit) for level in levels]
    positive, negative = integers[zero + 1 :], [-i for i in reversed(integers[:zero])]
    made = _decoder(format, [0, *positive], [0, *negative], signed)
    low = -len(negative) if signed else 0
    worth: list[int | None] = [None] * 2**made.code_bits
    found = Operand(format.name, made.code_bits, (), unit, made)
    for rank in range(low, len(positive) + 1):
        worth[found.code(rank)] = integers[zero + rank]
    if signed and not made.twos_complement and worth[2 ** (made.code_bits - 1)] is None and made.minus_zero:
        worth[2 ** (made.code_bits - 1)] = 0  # minus zero
    return Operand(format.name, made.code_bits, tuple(worth), unit, made)


def _exponent(number: Fraction) -> int:
    """The exponent of the last bit of a number whose denominator is a power of two."""
    down = number.denominator.bit_length() - 1
    return -down if down else (number.numerator & -number.numerator).bit_length() - 1


def _decoder(format: Format, positive: list[int], negative: list[int], signed: bool) -> Decoder:
    if isinstance(format, Posit):
        return decoders.posit(format.bits, format.es)
    if isinstance(format, Octaves) and format.low_extra:
        return decoders.twos_complement(format.bits)
    if isinstance(format, Octaves):
        return decoders.octaves(format.valid_bits, signed)
    return decoders.table(positive, negative if signed else [0], signed)


def e8m0() -> Operand:
    """OCP's scale of a block: 2^(code - 127); 255 means nan."""
    worth = [1 << code for code in range(255)]
    return Operand("e8m0", 8, (*worth, None), -127, decoders.power_of_two(8))


@dataclass(frozen=True)
class Blocks:
    """A block format as hardware sees it: elements whose products are summed, then scaled.

    Attributes:
        name: the format's name.
        element: the elements' operand.
        block: how many elements share a scale.
        scale: the scale's operand, never negative; None where the scale is the tensor's and no part of the unit.
    """

    name: str
    element: Operand
    block: int = 0
    scale: Operand | None = None


# Element format, elements in a block, format of the block's scale (OCP MX v1.0; NVFP4 has a scale of the tensor, too,
# which multiplies the finished sum and is no part of this unit).
BLOCKS = {
    "mxfp8_e4m3": ("ocp_e4m3", 32, "e8m0"),
    "mxfp8_e5m2": ("ocp_e5m2", 32, "e8m0"),
    "mxfp6_e3m2": ("ocp_e3m2", 32, "e8m0"),
    "mxfp6_e2m3": ("ocp_e2m3", 32, "e8m0"),
    "mxfp4": ("ocp_e2m1", 32, "e8m0"),
    "mxint8": ("int8", 32, "e8m0"),
    "nvfp4": ("ocp_e2m1", 16, "ocp_e4m3"),
}


def blocks(spec: str) -> Blocks:
    """The operand that `spec` names: a format with one scale a tensor, or a block format of `BLOCKS`.

    Raises:
        UserError: neither, or a format of more than 256 values.
    """
    if spec in BLOCKS:
        element, block, scale = BLOCKS[spec]
        scales = e8m0() if scale == "e8m0" else operand(formats.get(scale), signed=False)
        return Blocks(spec, operand(formats.get(element)), block, scales)
    try:
        format = per_tensor(spec)
    except ValueError as error:
        raise UserError(f"{error}; or a block format: {', '.join(BLOCKS)}") from error
    return Blocks(format.name, operand(format))
