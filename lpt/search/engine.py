"""The search: every format measured on mini-batches of a trained model, all of it or as a race."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import formats as formats_
from ..formats import Format
from ..formats.names import per_tensor
from .cost import Priced, cost
from .journal import Found, Journal, Measured
from .probe import ACTIVATIONS, Angles, Probe
from .race import Array, Outcome, estimates, race
from .ranking import MODEL, Ranking, Row

BY = ("error", "activation", "both")
METHODS = ("race", "exhaustive")
GROUPS: dict[str, Callable[[], list[Format]]] = {
    "family8": lambda: formats_.family(8),
    "family7": lambda: formats_.family(7),
    "family6": lambda: formats_.family(6),
    "posits": lambda: [formats_.get(f"posit8_{es}") for es in range(3)],
}
FormatSpec = str | Sequence[int] | Format


def search(
    model: nn.Module,
    batches: Sequence[Any],
    loss: Callable[..., Tensor],
    formats: Sequence[FormatSpec] | None = None,
    *,
    method: str = "race",
    by: str = "both",
    activation: str = "local",
    top: int = 10,
    confidence: float = 0.95,
    seed: int = 0,
    layers: int = 0,
    layers_of: Sequence[str] = (),
    price: Callable[[Format], Priced | None] = cost,
    costs: str = MODEL,
    journal: Journal | None = None,
    watch: Callable[[int, int], None] = lambda batch, alive: None,
) -> Ranking:
    """Rank number formats for a trained model by how far they turn its weight gradient; nothing is trained.

    `model` is put into evaluation mode meanwhile (no dropout, running statistics of batch-norm) and is as before
    afterwards. It computes where its parameters are; bring the batches there.

    Args:
        model: any nn.Module. Sums and products must be modules for their errors to be rounded (`lpt.ops`,
            `lpt.models.visible`).
        batches: pairs (x, y), at least 2; a list, or anything with a length and an index.
        loss: loss(model(x), y) -> 0-dim; model(*x) if x is a tuple, model(**x) if it is a dict. With y left out of
            every batch, loss(model, batch) -> 0-dim.
        formats: names, lists of valid bits, formats, or the groups "family8", "family7", "family6" and "posits",
            which are the default: 501 formats.
        method: "race" stops poor formats early; "exhaustive" runs every format on every batch.
        by: rank by "error", "activation" or "both", sqrt(error^2 + activation^2) on each batch: the angle of both
            together if they turn at right angles to each other.
        activation: "local" or "propagated", see `lpt.search.probe`.
        top: how many of the best a race looks for.
        confidence: of a race, see `Ranking`.
        seed: of the order of the batches.
        layers: give the angles of each layer as well, on so many batches: for the first `top` formats, and for those
            whose names are in `layers_of`.
        price: what a format costs, None where that is not known; the model if not given.
        costs: what that is, for people.
        journal: where evaluations are kept and looked up.
        watch: called with the number of batches done and of formats still in the race.

    Raises:
        ValueError: an unknown format or choice, no formats, fewer than 2 batches, a model or loss without a gradient,
            a loss that is not finite.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {type(model).__name__}: give an nn.Module")
    if not (hasattr(batches, "__len__") and hasattr(batches, "__getitem__")):
        raise ValueError(f"batches is {type(batches).__name__}: they are run in random order, so give list(batches)")
    chosen = resolve(formats)
    check(len(batches), method, by, activation, top, confidence, layers)
    priced = {f.name: None if f.name == "fp32" else price(f) for f in chosen}
    chosen.sort(key=lambda f: _total(priced[f.name]))  # of formats that measure the same, the cheapest comes first
    order = np.random.default_rng(seed).permutation(len(batches)).tolist()
    found: Found = {}
    detailed: Found = {}
    with Probe(model, lambda batch: _loss(model, loss, batch), activation) as probe, journal or Journal() as known:
        angles = Measured(probe, batches, order, chosen, known)

        def evaluate(n: int, indices: Sequence[int]) -> list[float]:
            found.update(angles.of(n, indices))
            return [score(found[n, i], by) for i in indices]

        top = min(top, len(chosen))
        if method == "race" and len(chosen) > top:
            outcome = race(evaluate, len(chosen), len(batches), top, confidence, watch)
        else:
            method, outcome = "exhaustive", exhaustive(evaluate, len(chosen), len(batches), watch)
        leaders = [i for i in outcome.order if i in outcome.order[:top] or chosen[i].name in layers_of]
        for n in range(min(layers, len(outcome.scores))):
            detailed |= angles.of(n, leaders, per_layer=True)
    return Ranking(
        _rows(chosen, priced, outcome, found, detailed, top), by, method, 1 - outcome.doubt, top, len(found),
        len(chosen) * len(batches), len(outcome.scores), len(detailed), settings(probe), list(probe.weights), costs,
    )  # fmt: skip


def exhaustive(
    evaluate: Callable[[int, Sequence[int]], Sequence[float]],
    formats: int,
    batches: int,
    watch: Callable[[int, int], None] = lambda batch, alive: None,
) -> Outcome:
    """Every format on every batch; arguments as those of `race`."""
    scores = np.empty((batches, formats))
    for n in range(batches):
        watch(n, formats)
        scores[n] = evaluate(n, range(formats))
    return Outcome([int(i) for i in np.argsort(scores.mean(0), kind="stable")], scores, 0.0)


def resolve(formats: Sequence[FormatSpec] | None) -> list[Format]:
    """The formats that `formats` means, each once.

    Raises:
        ValueError: an unknown name, or none.
    """
    if isinstance(formats, str):
        raise ValueError(f"formats={formats!r} is not a list: write [{formats}]")
    found: dict[str, Format] = {}
    for spec in GROUPS if formats is None else formats:
        group = GROUPS.get(spec) if isinstance(spec, str) else None
        for format in group() if group else [per_tensor(spec)]:
            found.setdefault(format.name, format)
    if not found:
        raise ValueError(f"the list of formats is empty: give names, or some of {', '.join(GROUPS)}")
    return list(found.values())


def score(angles: Angles, by: str) -> float:
    """What a format is ranked by, on one batch."""
    return math.hypot(angles.error, angles.activation) if by == "both" else float(getattr(angles, by))


def settings(probe: Probe) -> list[str]:
    """What is measured, for people."""
    size = sum(w.numel() for w in probe.weights.values())
    where = "where G = A^T E uses it; the forward pass stays in full precision"
    if not probe.local:
        where = f"behind {len(probe.edges)} modules; the forward pass runs on it"
    lines = [
        f"angle: of the gradient of {len(probe.weights)} weights ({size:,} elements) to that in full precision, in "
        "degrees; no biases, no normalizations",
        f"error E: rounded behind {len(probe.edges)} modules; the forward pass and the loss stay in full precision",
        f"activation A ({'local' if probe.local else 'propagated'}): rounded {where}",
        "rounding: to nearest; scale: of each tensor's own largest value, room 0; network input and last error: "
        "the sum of two values; output not rounded",
        "model: evaluation mode (no dropout, running statistics of batch-norm)",
    ]
    if probe.hidden:
        hidden = ", ".join(f"{name} ({kind})" for name, kind in probe.hidden.items())
        lines.append(f"left in full precision, and out of the angle, since their products cannot be reached: {hidden}")
    return lines


def check(batches: int, method: str, by: str, activation: str, top: int, confidence: float, layers: int) -> None:
    """What `search` demands of its settings.

    Raises:
        ValueError: one is not possible.
    """
    for key, got, valid in (
        ("method", method, METHODS), ("by", by, BY), ("activation", activation, ACTIVATIONS),
    ):  # fmt: skip
        if got not in valid:
            raise ValueError(f"{key}={got!r} is not one of {', '.join(valid)}")
    for key, number, low in (("batches", batches, 2), ("top", top, 1), ("layers", layers, 0)):
        if not isinstance(number, int) or isinstance(number, bool) or number < low:
            why = "; standard errors need 2 batches, and the paper takes 100" if key == "batches" else ""
            raise ValueError(f"{key}={number!r}: give a whole number from {low} upward{why}")
    if not isinstance(confidence, (int, float)) or not 0.5 <= confidence < 1:
        raise ValueError(f"confidence={confidence!r}: give a probability from 0.5 to below 1, such as 0.95")


def _loss(model: nn.Module, loss: Callable[..., Tensor], batch: Any) -> Tensor:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        return loss(model, batch)
    x, y = batch
    if isinstance(x, dict):
        return loss(model(**x), y)
    return loss(model(*x) if isinstance(x, tuple) else model(x), y)


def _total(cost: Priced | None) -> float:
    return math.inf if cost is None else cost.total


def _rows(
    chosen: list[Format], priced: dict[str, Priced | None], outcome: Outcome, found: Found, detailed: Found, top: int
) -> list[Row]:
    n, best = len(outcome.scores), outcome.order[:top]
    angles_of: dict[str, Array] = {}
    for kind in BY:
        values = np.full((n, len(chosen)), np.nan)
        for (batch, i), angles in found.items():
            values[batch, i] = score(angles, kind)
        angles_of[kind], angles_of[f"{kind}_se"] = estimates(values, best)
    ran = (~np.isnan(outcome.scores)).sum(0)
    return [
        Row(
            rank, chosen[i], batches=int(ran[i]), top=rank <= top, cost=priced[chosen[i].name],
            **_number(angles_of, i), **_layers(detailed, i),
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
