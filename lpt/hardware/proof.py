"""The proof that a netlist computes what its unit says: all pairs of codes, with random states of the register.

A state is drawn in one of several ways, since faults hide in different places: any bits; long runs of equal bits, for
carries; the opposite of what is added, for cancellation; full and empty, for saturation and underflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .netlist import Machine, joined, packed, unpacked
from .unit import Unit

WAYS_TO_DRAW = 5


@dataclass(frozen=True)
class Cases:
    """What a netlist is tried on, and what must come out.

    Attributes:
        codes: by port, as `Unit.step` takes them.
        state, expected: [n] contents of the register before, its value after.
        words, state_words: the same, packed.
        pairs: how many pairs of codes are among them.
    """

    unit: Unit
    codes: dict[str, Any]
    state: Any
    expected: Any
    words: dict[str, Any]
    state_words: Any
    pairs: int

    @classmethod
    def of(cls, unit: Unit, rounds: int = WAYS_TO_DRAW, seed: int = 0) -> Cases:
        """All pairs of codes with a meaning, in each way of a step and `rounds` times, each time with other states."""
        random = np.random.default_rng(seed)
        first, last = (np.array(unit.ports[port].codes, np.int64) for port in "ab")
        pairs = len(first) * len(last)
        least = max(pairs, 4096)  # narrow formats: their few pairs with more states
        count = -(-least // 64) * 64
        a, b = np.empty((unit.ways, rounds * count), np.int64), np.empty((unit.ways, rounds * count), np.int64)
        for way in range(unit.ways):
            for part in range(rounds):
                order = np.resize(random.permutation(pairs), count)
                place = slice(part * count, (part + 1) * count)
                a[way, place], b[way, place] = first[order // len(last)], last[order % len(last)]
        codes = {"a": a, "b": b}
        for port, scale in unit.scales.items():
            codes[port] = random.choice(np.array(scale.codes), rounds * count)
        state = np.concatenate([_states(unit, {port: value[..., part * count : (part + 1) * count]
                                               for port, value in codes.items()}, part, random, count)
                                for part in range(rounds)])  # fmt: skip
        words = {port: packed_port(unit, port, codes[port]) for port in codes}
        state_words = packed(state, unit.register.bits)
        return cls(unit, codes, state, unit.step(state, codes), words, state_words, pairs)

    def wrong(self, machine: Machine) -> int:
        """In how many cases the netlist's register comes to hold another number."""
        clock = {"clk": np.zeros((1, self.state_words.shape[1]), np.uint64)}
        found = unpacked(machine.next(self.words | clock, self.state_words), self.unit.register.dtype)
        return int((self.unit.register.value(found) != self.expected).sum())


def packed_port(unit: Unit, port: str, codes: Any) -> Any:
    """[bits, words] of a port: the ways of `a` and `b` one behind the other."""
    bits = unit.ports[port].bits
    return np.concatenate([packed(way, bits) for way in np.atleast_2d(codes)])


def _states(unit: Unit, codes: dict[str, Any], part: int, random: Any, count: int) -> Any:
    """`count` states, drawn in the way that is number `part`."""
    bits = unit.register.bits
    way = part % WAYS_TO_DRAW
    if way == 1:  # runs of equal bits
        rows = random.random((bits, count)) < 0.15
        rows[0] = random.random(count) < 0.5
        rows = np.bitwise_xor.accumulate(rows, axis=0)
    elif way == 2:  # the opposite of the sum, almost
        return _opposite(unit, codes, random, count)
    elif way == 3:  # nearly full or nearly empty, of either sign
        rows = random.random((bits, count)) < np.where(random.random(count) < 0.5, 0.06, 0.94)
        rows[-1] = random.random(count) < 0.5
    else:
        rows = random.random((bits, count)) < 0.5
    if way == 4 and unit.accumulator.kind == "fp":  # an exponent near the term's
        return _near(unit, codes, random, rows)
    return joined(rows, unit.register.dtype)


def _opposite(unit: Unit, codes: dict[str, Any], random: Any, count: int) -> Any:
    """States whose number is close to minus what is added."""
    register, little = unit.register, random.integers(-2, 3, count)
    wanted = -unit.terms(codes).sum(0) + (little.astype(register.dtype) << register.dropped)
    return register.code(wanted)


def _near(unit: Unit, codes: dict[str, Any], random: Any, rows: Any) -> Any:
    """Random fractions and signs with an exponent up to a few places from that of the term."""
    register, size = unit.register, unit.accumulator.size
    place = register.code(abs(unit.terms(codes).sum(0))) >> size
    field = np.clip(place + random.integers(-size - 3, 4, rows.shape[1]), 0, (1 << register.field) - 1)
    rest = joined(rows, unit.register.dtype)
    keep = ((1 << size) - 1) | (1 << (register.bits - 1))
    return (rest & keep) | (field.astype(register.dtype) << size)
