"""What a format costs in a search's Pareto front: the model, or a synthesis of each."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

from ..errors import UserError
from ..formats import Format, get
from ..hardware.accumulators import Accumulator
from ..hardware.synthesis import Workshop
from ..hardware.unit import Unit
from ..places import place
from ..search import Gates, cost
from ..search.cost import Priced
from ..search.ranking import MODEL

Price = Callable[[Format], Priced | None]


def pricing(config: dict[str, Any]) -> tuple[Price, str]:
    """What a format costs, by `cost`, and what that is, for people.

    Raises:
        UserError: a choice that there is not, or no synthesizer.
    """
    kind, accumulator = config["cost"], config["accumulator"]
    if kind not in ("model", "synthesis"):
        raise UserError(f"cost={kind!r} is not one of model, synthesis")
    if kind == "model":
        if accumulator != "exact" or config["library"] is not None:
            raise UserError("the model knows the exact accumulator alone, and no library: give cost=synthesis as well")
        return modelled, MODEL
    Accumulator.read(accumulator)
    workshop = Workshop(place(config["paths"]["outputs"], "paths.outputs") / "synthesis", config["library"])
    done = itertools.count(1)

    def price(format: Format) -> Priced | None:
        if format.bits > 8 or not _has_name(format):
            return None  # no unit is made for it
        unit = Unit.read(format.name, accumulator)
        number = next(done)
        if sys.stderr.isatty():
            print(f"\rsynthesis {number}: {unit.name:<60}", end="", file=sys.stderr, flush=True)
        elif number % 50 == 1:
            print(f"synthesis {number}: {unit.name}", file=sys.stderr, flush=True)
        return Gates(workshop.costs(unit)["gates"])

    return price, f"syntheses ({workshop.tool}, library {workshop.library.hash}) with the accumulator {accumulator}"


def modelled(format: Format) -> Priced | None:
    """The model's cost; None for a format of one's own whose values cannot be listed."""
    try:
        return cost(format)
    except ValueError:
        return None


def _has_name(format: Format) -> bool:
    """Whether its name stands for it, as it does for all but formats of one's own."""
    try:
        return get(format.name) == format
    except ValueError:
        return False
