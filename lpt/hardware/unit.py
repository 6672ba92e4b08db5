"""A multiply-accumulate unit: two operands, how many products a step, and the accumulator. Open this first.

    unit = Unit.read("log4*fp134", "fixed:24", ways=1)
    verilog.source(unit)                     # its Verilog
    unit.step(state, unit.random(...))       # what its register holds next, in integers

A step adds `ways` products. Those of a block format are summed first, exactly, and then scaled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import UserError
from .accumulators import Accumulator, Numbers, Register
from .operands import Blocks, Operand, blocks

MOST_WAYS = 64


class NoUnit(UserError):
    """Formats, accumulator and ways that are each valid, and do not go together."""


Codes = dict[str, Any]  # by port: int64 [ways, n] for a and b, [n] for scales


@dataclass(frozen=True)
class Unit:
    """Attributes:
    a, b: the operands; in a product of weights and activations, the weights' format comes first.
    accumulator: what sums are held in.
    ways: products in a step.
    """

    a: Blocks
    b: Blocks
    accumulator: Accumulator
    ways: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.ways, int) or isinstance(self.ways, bool) or not 1 <= self.ways <= MOST_WAYS:
            raise UserError(f"ways={self.ways!r}: give a whole number from 1 to {MOST_WAYS}, the products in a step")
        block = min((x.block for x in (self.a, self.b) if x.block), default=0)
        if block and block % self.ways:
            raise NoUnit(
                f"ways={self.ways}: products of one block have one scale, so the ways of {self.formats} must divide "
                f"its block of {block}"
            )
        if self.accumulator.kind == "fixed" and any(scale.name == "e8m0" for scale in self.scales.values()):
            raise NoUnit(
                f"accumulator={self.accumulator}: no fixed point holds sums of {self.formats}, whose scales reach from "
                "2^-127 to 2^127: give fp:M, or exact"
            )

    @classmethod
    def read(cls, formats: str, accumulator: str = "exact", ways: int = 1) -> Unit:
        """`formats` is one format, or a pair W*A.

        Raises:
            UserError: no such format or accumulator, or two that do not go together.
        """
        parts = [part.strip() for part in str(formats).split("*")]
        if len(parts) > 2:
            raise UserError(
                f"formats={formats}: a product has two operands: give a format, or a pair such as log4*fp134"
            )
        first, last = blocks(parts[0]), blocks(parts[-1])
        return cls(first, first if len(parts) == 1 else last, Accumulator.read(accumulator), ways)

    @property
    def formats(self) -> str:
        return self.a.name if self.a.name == self.b.name else f"{self.a.name}*{self.b.name}"

    @property
    def name(self) -> str:
        """A name for files and modules: `mac_fp134_exact`, `mac_log4_fp134_fixed24_16way`."""
        ways = f"_{self.ways}way" if self.ways > 1 else ""
        text = f"mac_{self.formats}_{self.accumulator}{ways}".replace(":", "")
        return re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9]+", "_", text)).strip("_")

    @property
    def scales(self) -> dict[str, Operand]:
        """The scales' operands, by port."""
        found = {"scale_a": self.a.scale, "scale_b": self.b.scale}
        return {port: scale for port, scale in found.items() if scale is not None}

    @property
    def ports(self) -> dict[str, Operand]:
        """All that comes in, by port."""
        return {"a": self.a.element, "b": self.b.element, **self.scales}

    @property
    def summed_first(self) -> bool:
        """Is there one term a step, the sum of all products, instead of a term for each?"""
        return bool(self.scales) or self.accumulator.kind == "fp"

    @cached_property
    def register(self) -> Register:
        largest = 1
        for port in self.ports.values():
            largest *= port.largest
        return Register(self.accumulator, largest)

    @property
    def unit(self) -> int:
        """The accumulator's numbers are integers times 2^unit."""
        return sum(port.unit for port in self.ports.values())

    # -- the reference -------------------------------------------------------------------------------------------

    def terms(self, codes: Codes) -> Numbers:
        """What the codes add at a step: [ways, n], or [1, n] where products are summed first."""
        worth = {port: self.worth(port)[codes[port]] for port in self.ports}
        products = worth["a"] * worth["b"]
        if not self.summed_first:
            return products
        total = products.sum(0, keepdims=True)
        for port in self.scales:
            total = total * worth[port]
        return total

    def worth(self, port: str) -> Numbers:
        """By code, what it is worth; 0 for a code without meaning."""
        return np.array([worth or 0 for worth in self.ports[port].worth], dtype=self.register.dtype)

    def step(self, state: Numbers, codes: Codes) -> Numbers:
        """The value that the register takes, in units."""
        return self.register.step(state, self.terms(codes))
