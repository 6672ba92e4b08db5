"""What can be known of a scheme before anybody trains in it, each measured on one trained network: the search's angles,
the two numbers of what stays and what averages out, and cheap rivals."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dataflow.slots import SLOTS
from ..runs import saved
from ..runs.build import build
from ..runs.evaluation import stored
from ..runs.folder import replace
from ..runs.parts import make_task
from ..runs.searching import take
from ..search import Candidate, Journal, search
from ..search.candidates import candidate
from ..search.recipes import products_of
from ._rivals import NAMES as RIVALS
from ._rivals import rivals

NAMES = (
    "error", "activation/local", "both/local", "activation/propagated", "both/propagated", "whole", "systematic",
    "noise", "systematic and noise", *RIVALS,
)  # fmt: skip
FILE = "indicators.json"
DRAWS = 2
Array = NDArray[np.float64]


def scheme(arm: str, settings: str) -> Candidate:
    """The candidate that the settings of an arm train in: a format in Edges, or products.

    Raises:
        ValueError: they are neither.
    """
    given = dict(word.partition("=")[::2] for word in settings.split())
    value = given.get("products.value", given.get("format.value", "")).strip("'\"")
    if "products" in given:
        slots = products_of(given["products"], {"value": value} if value else {})
        return candidate({"name": arm, **{slot: slots[slot] for slot in SLOTS}})
    found = candidate(value)
    return Candidate(arm, found.activation, found.error)


def indicators(folder: Path, schemes: Sequence[Candidate], batches: int) -> dict[str, Array]:
    """By name, one value for each scheme, on the network that was trained in `folder`; kept there once measured."""
    names = [each.name for each in schemes]
    key = {"schemes": names, "batches": batches, "indicators": list(NAMES)}
    file = folder / FILE
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if known.get("key") != key:
        found = _measured(folder, schemes, batches)
        known = {"key": key, "values": {name: found[name] for name in NAMES}}
        replace(file, json.dumps(known, indent=1) + "\n")
    return {name: np.array(values) for name, values in known["values"].items()}


def _measured(folder: Path, schemes: Sequence[Candidate], batches: int) -> dict[str, list[float]]:
    file = saved.find(folder)
    cfg: Any = stored(file, saved.read(file))
    task: Any = make_task(cfg, build("trainer", cfg.trainer))
    saved.load(task.model, folder)
    taken = take(task, batches)
    found: dict[str, list[float]] = {}
    for activation in ("local", "propagated"):
        print(f"measuring angles, activations {activation}", file=sys.stderr, flush=True)
        local = activation == "local"
        journal = Journal(folder / f"angles_{activation}-{batches}.jsonl", folder.name)
        ranking = search(
            task.model, [[b] for b in taken], lambda model, batch: task.loss(batch[0])[0], candidates=schemes,
            method="exhaustive", activation=activation, journal=journal, top=len(schemes),
            by="whole" if local else "both", systematic=batches if local else 0, draws=DRAWS,
        )  # fmt: skip
        rows: Mapping[str, Any] = {row.name: row for row in ranking}
        own = [rows[each.name] for each in schemes]
        found["error"] = [row.error for row in own]
        found[f"activation/{activation}"] = [row.activation for row in own]
        found[f"both/{activation}"] = [row.both for row in own]
        if local:
            found["whole"] = [row.whole for row in own]
            found["systematic"] = [row.systematic for row in own]
            found["noise"] = [row.noise_to_signal for row in own]
            found["systematic and noise"] = [
                math.degrees(math.atan(math.hypot(_tangent(row.systematic), math.sqrt(row.noise_to_signal))))
                for row in own
            ]
    print("measuring errors of tensors", file=sys.stderr, flush=True)
    return found | rivals(task.model, taken[:10], lambda batch: task.loss(batch)[0], schemes)


def _tangent(angle: float) -> float:
    return math.tan(math.radians(angle)) if angle < 90 else 1e9
