"""A netlist of cells, computed with: bits of integers are cases, so that one operation of numpy does 64 of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Words = Any  # uint64 array, each bit a case
Net = int | str  # a number, or the constants "0", "1", "x"
ONES = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Instance:
    """A cell: its type, the net at each pin (a list for a bus), and its parameters."""

    kind: str
    pins: dict[str, tuple[Net, ...]]
    parameters: dict[str, str]

    def net(self, pin: str) -> Net:
        return self.pins[pin][0]


@dataclass(frozen=True)
class Netlist:
    """Attributes:
    instances: its cells.
    inputs, outputs: nets by port, lowest bit first.
    """

    instances: tuple[Instance, ...]
    inputs: dict[str, tuple[Net, ...]]
    outputs: dict[str, tuple[Net, ...]]

    @classmethod
    def of(cls, module: dict[str, Any]) -> Netlist:
        """From a module of Yosys' JSON."""
        ports = {"input": {}, "output": {}}  # type: dict[str, dict[str, tuple[Net, ...]]]
        for name, port in module["ports"].items():
            ports[port["direction"]][name] = tuple(port["bits"])
        made = [
            Instance(cell["type"], {pin: tuple(bits) for pin, bits in cell["connections"].items()},
                     {key: str(value) for key, value in cell.get("parameters", {}).items()})
            for _, cell in sorted(module["cells"].items())
        ]  # fmt: skip
        return cls(tuple(made), ports["input"], ports["output"])

    def count(self) -> dict[str, int]:
        """How many cells of each type."""
        found: dict[str, int] = {}
        for instance in self.instances:
            found[instance.kind] = found.get(instance.kind, 0) + 1
        return dict(sorted(found.items()))

    def exchanged(self, index: int, kind: str, pins: dict[str, str]) -> Netlist:
        """With one cell for another: `pins` says which of its pins each pin of the old one becomes."""
        old = self.instances[index]
        new = Instance(kind, {pins[pin]: nets for pin, nets in old.pins.items()}, old.parameters)
        return replace(self, instances=(*self.instances[:index], new, *self.instances[index + 1 :]))


@dataclass(frozen=True)
class Part:
    """What a type of cell does: outputs from inputs, or a flip-flop: its state follows its input."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    compute: Callable[..., tuple[Words, ...]] | None = None  # arguments as `inputs`; None: a flip-flop
    parasitic: float = 0.0  # see `library`


class Machine:
    """A netlist made ready: cells in the order of their dependence.

    Args:
        parts: from an instance to what it does.

    Raises:
        ValueError: an unknown cell, a circle, or a state that is no bit of the output port.
    """

    def __init__(self, netlist: Netlist, parts: Callable[[Instance], Part], state: str = "acc") -> None:
        self.netlist = netlist
        self.steps: list[tuple[Part, list[Net], list[Net]]] = []
        self.state = netlist.outputs[state]
        self.following: dict[Net, Net] = {}
        self.parasitics: dict[Net, float] = {}  # by the net that a cell drives
        waiting: list[tuple[Part, list[Net], list[Net]]] = []
        for instance in netlist.instances:
            part = parts(instance)
            ins = [net for pin in part.inputs for net in instance.pins.get(pin, ("x",))]
            outs = [net for pin in part.outputs for net in instance.pins.get(pin, ())]
            self.parasitics |= dict.fromkeys(outs, part.parasitic)
            if part.compute is None:
                self.following[outs[0]] = ins[0]
            else:
                waiting.append((part, ins, outs))
        if odd := [net for net in self.following if net not in self.state]:
            raise ValueError(f"{len(odd)} flip-flops are no bit of {state}: their state cannot be set")
        self._order(waiting)

    def _order(self, waiting: list[tuple[Part, list[Net], list[Net]]]) -> None:
        ready: set[Net] = {"0", "1", "x", *self.following}
        ready |= {net for nets in self.netlist.inputs.values() for net in nets}
        missing = {id(step): {n for n in step[1] if n not in ready} for step in waiting}
        readers: dict[Net, list[Any]] = {}
        for step in waiting:
            for net in missing[id(step)]:
                readers.setdefault(net, []).append(step)
        stack = [step for step in waiting if not missing[id(step)]]
        while stack:
            step = stack.pop()
            self.steps.append(step)
            for net in step[2]:
                for reader in readers.pop(net, ()):
                    missing[id(reader)].discard(net)
                    if not missing[id(reader)]:
                        stack.append(reader)
        if len(self.steps) != len(waiting):
            raise ValueError("the netlist has a circle, or a net that nothing drives")

    def run(self, inputs: dict[str, Words], state: Words) -> dict[Net, Words]:
        """Every net's words.

        Args:
            inputs: by port, [bits, words].
            state: [bits, words] of the register.
        """
        words = state.shape[1]
        zero, ones = np.zeros(words, np.uint64), np.full(words, ONES)
        nets: dict[Net, Words] = {"0": zero, "1": ones, "x": zero}
        for port, values in inputs.items():
            nets |= dict(zip(self.netlist.inputs[port], values, strict=True))
        nets |= {net: state[bit] for bit, net in enumerate(self.state) if net in self.following}
        for part, ins, outs in self.steps:
            assert part.compute is not None
            nets |= zip(outs, part.compute(*(nets[net] for net in ins)), strict=False)
        return nets

    def next(self, inputs: dict[str, Words], state: Words) -> Words:
        """[bits, words] of the register after a step."""
        nets = self.run(inputs, state)
        # A bit of the state that is no flip-flop's is a constant, or the same net as another one's.
        return np.stack([nets[self.following.get(net, net)] for net in self.state])


def packed(numbers: Any, bits: int) -> Words:
    """[n] integers from 0 upward to [bits, n / 64] words; n is a multiple of 64."""
    if numbers.dtype == object:
        size = -(-bits // 8)
        content = b"".join(int(number).to_bytes(size, "little") for number in numbers)
        each = np.frombuffer(content, np.uint8).reshape(-1, size)
    else:
        each = numbers.astype("<i8").view(np.uint8).reshape(-1, 8)
    rows = np.unpackbits(each, axis=1, bitorder="little")[:, :bits].T
    return np.ascontiguousarray(np.packbits(rows, axis=1, bitorder="little")).view(np.uint64)


def unpacked(words: Words, dtype: Any) -> Any:
    """The integers of [bits, words]."""
    return joined(np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little"), dtype)


def joined(rows: Any, dtype: Any) -> Any:
    """The integers whose bits are in `rows`, [bits, n], the lowest first."""
    size = -(-len(rows) // 8) if dtype is object else 8
    each = np.packbits(rows, axis=0, bitorder="little").T  # [n, bytes]
    each = np.ascontiguousarray(np.pad(each, ((0, 0), (0, size - each.shape[1]))))
    if dtype is not object:
        return each.view("<i8")[:, 0].astype(np.int64)
    content = each.tobytes()
    return np.array([int.from_bytes(content[i : i + size], "little") for i in range(0, len(content), size)], object)


def toggles(words: Words, apart: int) -> int:
    """How many cases differ from the case `apart` words before them."""
    return int(np.bitwise_count(words[apart:] ^ words[:-apart]).sum()) if hasattr(np, "bitwise_count") else sum(
        int(word).bit_count() for word in words[apart:] ^ words[:-apart]
    )  # fmt: skip
