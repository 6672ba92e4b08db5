"""From what a search has measured to its rows, and what was measured, for people."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch

from ..dataflow.slots import SLOTS
from ..formats import Format
from ..weights.parameters import why_not
from .candidates import Candidate
from .cost import Gates, Priced
from .journal import Found
from .probe import PROPAGATED, Angles, Probe
from .race import Array, Outcome, estimates
from .ranking import Row
from .sites import ERRORS

BY = ("error", "activation", "both")
SHOWN = 4  # parameters that are named


def score(angles: Angles, by: str) -> float:
    """What a format is ranked by, on one batch."""
    if by == "whole":
        assert angles.whole is not None
        return angles.whole
    return math.hypot(angles.error, angles.activation) if by == "both" else float(getattr(angles, by))


def priced(each: Candidate, price: Callable[[Format], Priced | None], probe: Probe) -> Priced | None:
    """What a candidate costs: its format; of several, the mean over the multiply-adds that read them. None if one has
    no price, as full precision has none."""
    if each.products is None or each.format is not None:
        formats = [each.format] if each.format is not None else [each.activation, each.error]
        found = [None if f is None or f.name == "fp32" else price(f) for f in formats]
        if len(found) == 1:
            return found[0]
        shares = [0.5, 0.5]
    else:
        assert probe.sites is not None
        read = probe.sites.read(each)
        known = {slot.grid: price(slot.grid) for _, slot, _ in read if slot is not None and slot.rounds}
        found = [known[slot.grid] if slot is not None and slot.rounds else None for _, slot, _ in read]
        whole = math.fsum(size for *_, size in read)
        shares = [size / whole for *_, size in read]
    if any(cost is None for cost in found):
        return None
    return Gates(math.fsum(share * cost.total for share, cost in zip(shares, found, strict=True)))  # type: ignore[union-attr]


def seen_by(by: str, local: bool) -> set[str]:
    """The places whose rounding counts in an angle (`probe`)."""
    error, activation = {"E", *ERRORS}, {"A", *(("wgrad_x",) if local else PROPAGATED)}
    whole = {"A", "E", *SLOTS}
    return {"error": error, "activation": activation, "both": error | activation, "whole": whole}[by]


def unseen(each: Candidate, probe: Probe, seen: Collection[str]) -> tuple[str, ...]:
    """Places that a candidate rounds in the batch that was run, and of which those of `seen` ("A", "E" and slots) tell
    nothing: the format of none of them is theirs."""
    edges = [("A", each.activation), ("E", each.error)]
    grids: list[tuple[str, Any]] = [(name, grid) for name, grid in edges if grid is not None and grid.name != "fp32"]
    if probe.sites is not None and each.products is not None:
        read = probe.sites.read(each)
        grids += [(name, slot.grid) for name, slot, _ in read if slot is not None and slot.rounds]
    told = [grid for name, grid in grids if name in seen]
    return tuple(dict.fromkeys(name for name, grid in grids if name not in seen and grid not in told))


def settings(probe: Probe, chosen: Sequence[Candidate], unseen: bool = False) -> list[str]:
    """What is measured, for people; `unseen`: not all of each that is ranked."""
    size = sum(w.numel() for w in probe.weights.values())
    where = "where G = A^T E uses it; the forward pass stays in full precision"
    if not probe.local:
        where = f"behind {len(probe.edges)} modules; the forward pass runs on it"
    lines = [
        f"angle: of the gradient of {len(probe.weights)} weights ({size:,} elements) to that in full precision, in "
        "degrees; no biases, no normalizations; model in evaluation mode (no dropout, running statistics of batch-norm)"
    ]
    if any(each.activation or each.error for each in chosen):
        lines += [
            f"error E: rounded behind {len(probe.edges)} modules; the forward pass and the loss stay in full precision",
            f"activation A ({'local' if probe.local else 'propagated'}): rounded {where}",
            "rounding: to nearest; scale: of each tensor's own largest value, room 0; network input and last error: "
            "the sum of two values; output not rounded",
        ]
    if probe.sites is not None:
        back = "x, w and wgrad_x, forward and back" if not probe.local else "wgrad_x alone"
        lines += [
            f"block formats, slots and recipes: in {len(probe.sites.sites)} products; error: dgrad_e, dgrad_w and "
            f"wgrad_e; activation: {back}" + ("; whole: all of it" if probe.whole else ""),
            "their bits and costs: means over the multiply-adds that read an operand; a scale's cost is not fitted",
        ]
        if unseen:
            lines.append(
                "unseen: operands that do not count in what is ranked by, and whose format nothing has that counts "
                "(by=whole ranks by everything)"
            )
        lines += [f"{each.name}: not measured: {'; '.join(each.left)}" for each in chosen if each.left]
    if unlike := [f"{name} ({reason})" for name, reason in why_not(probe.model).items()]:
        named = f"{', '.join(unlike[:SHOWN])}{' and more' * (len(unlike) > SHOWN)}"
        lines.append(f"out of the angle, so that nothing tells what rounding there costs: {named}")
    if probe.hidden:
        hidden = ", ".join(f"{name} ({kind})" for name, kind in probe.hidden.items())
        lines.append(f"left in full precision, and out of the angle, since their products cannot be reached: {hidden}")
    return lines


def total(cost: Priced | None) -> float:
    return math.inf if cost is None else cost.total


def rows(
    chosen: Sequence[Candidate], prices: dict[str, Priced | None], bits: dict[str, float], outcome: Outcome,
    found: Found, detailed: Found, top: int,
    probe: Probe, seen: Collection[str],
) -> list[Row]:  # fmt: skip
    """A row for each candidate, best first; `seen`: places that count in what they are ranked by."""
    n, best = len(outcome.scores), outcome.order[:top]
    angles_of: dict[str, Array] = {}
    for kind in (*BY, *(["whole"] if all(angles.whole is not None for angles in found.values()) else [])):
        values = np.full((n, len(chosen)), np.nan)
        for (batch, i), angles in found.items():
            values[batch, i] = score(angles, kind)
        angles_of[kind], angles_of[f"{kind}_se"] = estimates(values, best)
    ran = (~np.isnan(outcome.scores)).sum(0)
    return [
        Row(
            rank, chosen[i], bits[chosen[i].name], batches=int(ran[i]), top=rank <= top, cost=prices[chosen[i].name],
            unseen=unseen(chosen[i], probe, seen), **_number(angles_of, i), **_layers(detailed, i),
        )
        for rank, i in enumerate(outcome.order, start=1)
    ]  # fmt: skip


def _number(values: dict[str, Array], i: int) -> dict[str, Any]:
    return {name: float(value[i]) for name, value in values.items()}


def _layers(detailed: Found, i: int) -> dict[str, Any]:
    """Means over the batches on which the layers' angles of format `i` were measured."""
    measured = [angles for (_, j), angles in detailed.items() if j == i]
    if not measured:
        return {}
    return {
        kind: tuple(torch.tensor([getattr(a, kind) for a in measured]).nanmean(0).tolist())
        for kind in ("error_layers", "activation_layers")
    }
