"""What a netlist costs: area by part, transistors, delay, look-up tables, energy. All of them after its proof."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .library import Library
from .netlist import Instance, Machine, Net, Netlist, toggles

FO4 = 5.0  # tau of an inverter that drives four: 1 parasitic, 4 load
SETUP = 3.0  # tau that a flip-flop wants its data before the clock
PARTS = ("decoder", "multiplier", "exponent", "alignment", "accumulator")
# Modules by their names' beginnings; what is left (signs, absolute values, wiring) counts to the accumulator.
_PART_OF = {"decode": "decoder", "multiply": "multiplier", "exponent": "exponent", "align": "alignment",
            "place": "alignment"}  # fmt: skip


class Unproven(RuntimeError):
    """A netlist that does not compute what its unit says: a fault of ours or of the tool, and no figure is given."""


def area(netlist: Netlist, library: Library) -> float:
    """In NAND2 gates."""
    return sum(number * library.cells[_plain(kind)].area for kind, number in netlist.count().items())


def transistors(netlist: Netlist, library: Library) -> int | None:
    """Flip-flops included; None for a library that does not say."""
    if not library.own:
        return None
    return sum(number * library.cells[_plain(kind)].transistors for kind, number in netlist.count().items())


def by_part(modules: dict[str, Netlist], top: str, library: Library) -> dict[str, float]:
    """Area of each of `PARTS` when modules are synthesized one by one; their sum is above that of the whole unit."""
    found = dict.fromkeys(PARTS, 0.0)

    def add(module: str, part: str) -> None:
        part = next((own for start, own in _PART_OF.items() if module.startswith(start)), part)
        for kind, number in modules[module].count().items():
            if _plain(kind) in modules:
                for _ in range(number):
                    add(_plain(kind), part)
            else:
                found[part] += number * library.cells[_plain(kind)].area

    add(top, "accumulator")
    return found


def _plain(kind: str) -> str:
    return kind.removeprefix("\\")


def delay(machine: Machine, library: Library) -> float | None:
    """The longest way from register or input to the register, in FO4, by logical effort; None for a user's library.

    A load above four inverters is driven over a chain of inverters of that effort each, whose area is not counted.
    """
    if not library.own:
        return None
    loads = _loads(machine.netlist, library)
    arrival: dict[Net, float] = {}
    for instance in machine.netlist.instances:
        cell = library.cells[_plain(instance.kind)]
        if cell.data:
            net = instance.net(cell.output)
            arrival[net] = cell.parasitic + _driven(loads.get(net, 0.0))
    for _, ins, outs in machine.steps:
        at = max((arrival.get(net, 0.0) for net in ins), default=0.0)
        for net in outs:
            arrival[net] = at + machine.parasitics[net] + _driven(loads.get(net, 0.0))
    return (max(arrival.get(net, 0.0) for net in machine.following.values()) + SETUP) / FO4


def _driven(load: float) -> float:
    return load if load <= 4 else 4 + 5 * math.log(load / 4, 4)


def _loads(netlist: Netlist, library: Library) -> dict[Net, float]:
    """What each net drives, in inputs of an inverter."""
    found: dict[Net, float] = {}
    for instance in netlist.instances:
        for pin, load in library.cells[_plain(instance.kind)].inputs.items():
            net = instance.net(pin)
            found[net] = found.get(net, 0.0) + load
    return found


def slices(netlist: Netlist) -> dict[str, int]:
    """What a netlist of 7-series primitives takes: look-up tables, carry blocks (CARRY4) and flip-flops."""
    counts = netlist.count()
    return {
        "luts": sum(n for kind, n in counts.items() if kind.startswith("LUT") or kind == "INV"),
        "carry4": counts.get("CARRY4", 0),
        "ffs": sum(n for kind, n in counts.items() if kind.startswith("FD")),
    }


def energy(
    machine: Machine, library: Library, words: dict[str, Any], state: Any, apart: int, steps: int
) -> float | None:
    """Switched load a step, in inputs of an inverter: half the transitions times load, of nets and of the clock.

    No glitches: a net changes at most once a step. A cell's own output counts its parasitic load.

    Args:
        words, state: a step's inputs and register in each case, as `Machine.run` takes them.
        apart: how many words lie between a step and the one that follows it.
        steps: how many steps there are in all streams together.
    """
    if not library.own:
        return None
    nets, loads = machine.run(words, state), _loads(machine.netlist, library)
    switched = 0.0
    for net, values in nets.items():
        if isinstance(net, int) and net in loads:
            switched += toggles(values, apart) * (loads[net] + machine.parasitics.get(net, 0.0))
    clocked = sum(cell.inputs[cell.clock] for cell in _flops(machine.netlist.instances, library))
    return switched / 2 / steps + clocked  # the clock rises and falls at every step


def _flops(instances: tuple[Instance, ...], library: Library) -> list[Any]:
    cells = [library.cells[_plain(instance.kind)] for instance in instances]
    return [cell for cell in cells if cell.data]


def proven(wrong: Callable[[], int], what: str, cases: int) -> None:
    """Raises `Unproven` if any case is wrong."""
    if number := wrong():
        raise Unproven(
            f"{what}: the netlist computes another sum in {number} of {cases} cases. This is a fault of lpt or of the "
            "synthesizer; no figure of it is given"
        )
