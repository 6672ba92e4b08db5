"""What each type of cell computes: those of a Liberty library, and the primitives of 7-series FPGAs."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from .library import Library
from .logic import compiled
from .netlist import ONES, Instance, Part


def of_library(library: Library) -> Any:
    """From an instance to its `Part`, for netlists of this library's cells."""

    @cache
    def part(kind: str) -> Part:
        cell = library.cells.get(kind.removeprefix("\\"))
        if cell is None:
            raise ValueError(f"{kind} is no cell of {library.path.name} with one output")
        names = tuple(cell.inputs)
        if cell.data:
            return Part((cell.data,), (cell.output,), None, cell.parasitic)
        function = compiled(cell.function, names)
        return Part(names, (cell.output,), lambda *values: (function(*values) & ONES,), cell.parasitic)

    def of(instance: Instance) -> Part:
        found = part(instance.kind)
        cell = library.cells[instance.kind.removeprefix("\\")]
        if odd := [pin for pin, nets in instance.pins.items() if nets and pin not in (*cell.inputs, cell.output)]:
            raise ValueError(f"{cell.name} of {library.path.name}: {odd[0]} is no pin that is computed with")
        return found

    return of


def seven_series(instance: Instance) -> Part:
    """Of look-up tables, carry chains, multiplexers and the plain flip-flop."""
    kind = instance.kind
    if kind.startswith("LUT"):
        bits = instance.parameters["INIT"][::-1]
        count = int(kind[3:])
        names = tuple(f"I{i}" for i in range(count))
        return Part(names, ("O",), lambda *values: (_looked_up(bits, list(values)),))
    if kind in ("FDRE", "FDSE"):
        if (instance.net("CE"), instance.net("R" if kind == "FDRE" else "S")) != ("1", "0"):
            raise ValueError(f"a {kind} with an enable or a reset: this unit has neither")
        return Part(("D",), ("Q",))
    if kind == "CARRY4":
        return Part(("CI", "CYINIT", "DI", "S"), ("O", "CO"), _carry4)
    if kind in ("MUXF7", "MUXF8"):
        return Part(("I0", "I1", "S"), ("O",), lambda a, b, s: ((a & ~s) | (b & s),))
    if kind == "INV":
        return Part(("I",), ("O",), lambda a: (~a,))
    if kind == "BUFG":
        return Part(("I",), ("O",), lambda a: (a,))
    raise ValueError(f"{kind} is no primitive that can be computed with")


def _looked_up(bits: str, values: list[Any]) -> Any:
    """The table's bit at the address of `values`, the lowest first, by halves from the highest input down."""
    if not values:
        return ONES if bits == "1" else np.uint64(0)
    half, high = len(bits) // 2, values[-1]
    zero, one = bits[:half], bits[half:]
    if zero == one:
        return _looked_up(zero, values[:-1])
    return (_looked_up(zero, values[:-1]) & ~high) | (_looked_up(one, values[:-1]) & high)


def _carry4(ci: Any, start: Any, *rest: Any) -> tuple[Any, ...]:
    """Sums O and carries CO; carry-in is CI or CYINIT, of which one is 0."""
    data, select = rest[:4], rest[4:]
    carry, sums, carries = ci | start, [], []
    for d, s in zip(data, select, strict=True):
        sums.append(s ^ carry)
        carry = (carry & s) | (d & ~s)
        carries.append(carry)
    return (*sums, *carries)
