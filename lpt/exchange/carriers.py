"""ONNX's small types, and which of lpt's formats they hold: the same values, or more of them, up to a power of two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..formats import Blocks, Format

SHIFTS = sorted(range(-48, 49), key=abs)
VALID = "int2 to int8, int4_full, int8_full, ocp_e4m3 and ocp_e5m2"


class NoCarrier(ValueError):
    """No type of ONNX holds the format."""


@dataclass(frozen=True)
class Carrier:
    """A type of ONNX by the name that `onnx.TensorProto` gives it, and its finite values, float64, ascending."""

    name: str
    values: Tensor

    def shift(self, format: Format, alike: bool) -> int | None:
        """The exponent s with which the format's values are this type's times 2^s; None if there is none.

        Args:
            format: an element format, not a block format.
            alike: between the format's lowest and highest value the type must have no others, so that rounding to the
                nearest of both, ties to even, is the same.
        """
        wanted = format.values()
        for shift in SHIFTS:
            own = self.values * 2.0**shift
            found = own[(own >= wanted[0]) & (own <= wanted[-1])] if alike else own[torch.isin(own, wanted)]
            if torch.equal(found, wanted):
                return shift
        return None


def _floats(dtype: torch.dtype) -> Tensor:
    values = torch.arange(256, dtype=torch.uint8).view(dtype).double()
    return (values[values.isfinite()] + 0.0).unique()


CARRIERS = (
    Carrier("INT4", torch.arange(-8, 8, dtype=torch.float64)),
    Carrier("INT8", torch.arange(-128, 128, dtype=torch.float64)),
    Carrier("FLOAT8E4M3FN", _floats(torch.float8_e4m3fn)),
    Carrier("FLOAT8E5M2", _floats(torch.float8_e5m2)),
)


def carrier_of(format: Format, what: str, alike: bool = False) -> tuple[Carrier, int]:
    """The smallest type that holds the format, and the exponent of its scale where the format's scale is 0.

    Raises:
        NoCarrier: none does; `what` is at the head of the message.
    """
    if not isinstance(format, Blocks):
        try:
            for carrier in CARRIERS[1:] if alike else CARRIERS:  # runtimes seldom have activations in INT4
                if (shift := carrier.shift(format, alike)) is not None:
                    return carrier, shift
        except ValueError:  # of more values than can be listed
            pass
    raise NoCarrier(f"{what} in {format.name}, which no type of ONNX holds: {VALID} leave as ONNX, and the codes of "
                    "any format by to=FILE.safetensors")  # fmt: skip
