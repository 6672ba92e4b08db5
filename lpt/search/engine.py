"""The search: every candidate measured on mini-batches of a trained model, all of it or as a race."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..formats import Format
from .candidates import GROUPS, Candidate, CandidateSpec, resolve
from .cost import Priced, cost
from .draws import two_numbers
from .journal import Found, Journal, Measured
from .parts import parts
from .probe import ACTIVATIONS, Probe
from .race import Outcome, race
from .ranking import MODEL, Ranking
from .rows import BY, priced, rows, score, seen_by, settings, total
from .suggest import SPEND, menu_of, suggest

METHODS = ("race", "exhaustive")


def search(
    model: nn.Module,
    batches: Sequence[Any],
    loss: Callable[..., Tensor],
    formats: Sequence[CandidateSpec] | None = None,
    *,
    candidates: Sequence[CandidateSpec] | None = None,
    method: str = "race",
    by: str = "both",
    activation: str = "local",
    top: int = 10,
    confidence: float = 0.95,
    seed: int = 0,
    layers: int = 0,
    layers_of: Sequence[str] = (),
    systematic: int = 0,
    draws: int = 4,
    slots: int = 0,
    menu: Sequence[CandidateSpec] = (),
    bound: float | None = None,
    budget: float | None = None,
    spend: str = "bits",
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
            which are the default: 501 formats. Any of `candidates`, too.
        candidates: the same list, by the name under which it may hold more: block formats by name, as a mapping of what
            `lpt.formats.Blocks` takes, and in groups, "blocks4", "blocks6" and "blocks8"; Slots (or a mapping of what
            Slot takes), for all six operands; Products, or a mapping of what they take, with a `name` if you like;
            "recipe:NAME", a file of conf/recipe as far as its products and Edges go. Joined with `formats` if both are
            given.
        method: "race" stops poor candidates early; "exhaustive" runs every candidate on every batch.
        by: rank by "error", "activation" or "both", sqrt(error^2 + activation^2) on each batch: the angle of both
            together if they turn at right angles to each other. "whole": everything rounded, forward and back.
        activation: "local" or "propagated", see `lpt.search.probe`.
        top: how many of the best a race looks for.
        confidence: of a race, see `Ranking`.
        seed: of the order of the batches.
        layers: give the angles of each layer as well, on so many batches: for the first `top` formats, and for those
            whose names are in `layers_of`.
        systematic: measure what stays and what averages out of the error (`lpt.search.draws`), of the same ones on so
            many batches, each at `draws` draws of what is random.
        slots: measure what each slot of each product costs alone (`lpt.search.parts`), on so many batches: for the
            first candidate that has slots, and for the menu.
        menu: formats of which a mixed assignment is suggested (`lpt.search.suggest`): the cheapest that turns the
            gradient by at most `bound` degrees, or the best at `budget`; needs `slots`, 2 if that is 0.
        spend: what a mixture costs, "bits" of an operand or "hardware", as `price` says.
        price: what a format costs, None where that is not known; the model if not given.
        costs: what that is, for people.
        journal: where evaluations are kept and looked up.
        watch: called with the number of batches done and of formats still in the race.

    Raises:
        ValueError: an unknown format or choice, no formats, fewer than 2 batches, a model or loss without a gradient,
            a loss that is not finite, a candidate that does not fit the model.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {type(model).__name__}: give an nn.Module")
    if not (hasattr(batches, "__len__") and hasattr(batches, "__getitem__")):
        raise ValueError(f"batches is {type(batches).__name__}: they are run in random order, so give list(batches)")
    chosen = wanted(formats, candidates)
    check(len(batches), method, by, activation, top, confidence, layers)
    check_more(systematic, draws, slots, menu, bound, budget, spend)
    mixed = menu_of(menu) if menu else []
    order = np.random.default_rng(seed).permutation(len(batches)).tolist()
    found: Found = {}
    detailed: Found = {}
    whole = by == "whole" or systematic > 0
    everything = [*chosen, *(c for c in mixed if c.name not in {own.name for own in chosen})]
    with (
        Probe(model, lambda batch: _loss(model, loss, batch), activation, everything, whole) as probe,
        journal or Journal() as known,
    ):
        if probe.sites is not None:
            probe.reference(batches[order[0]])  # of products, bits and costs are means over what multiplies
        prices = {each.name: priced(each, price, probe) for each in chosen}
        chosen.sort(key=lambda each: total(prices[each.name]))  # of those that measure the same the cheapest is first
        bits = {each.name: each.bits if each.products is None else probe.bits(each) for each in chosen}
        angles = Measured(probe, batches, order, chosen, known, by == "whole")

        few = [batches[i] for i in order[: slots or (2 if mixed else 0)]]
        # Before the race: what cannot be had is refused while nothing is lost by it.
        suggestion = suggest(probe, few, mixed, price, spend, bound, budget) if mixed else None

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
        made = rows(chosen, prices, bits, outcome, found, detailed, top, probe, seen_by(by, probe.local))
        _add_systematic(
            made, probe, [batches[i] for i in order[:systematic]], [chosen[i] for i in leaders], draws, known
        )
        looked = dict(suggestion.parts) if suggestion is not None else {}
        first = next((chosen[i] for i in outcome.order if chosen[i].products is not None), None)
        if few and first is not None and first.name not in looked:
            looked |= parts(probe, few, [first])
    told = settings(probe, chosen, any(row.unseen for row in made))
    if systematic:
        told.append(
            "systematic, noise to signal: of everything rounded, forward and back, over "
            f"{min(systematic, len(batches))} batches, {draws} draws of what is random"
        )
    return Ranking(
        made, by, method, 1 - outcome.doubt, top, len(found), len(chosen) * len(batches), len(outcome.scores),
        len(detailed), told, list(probe.weights), costs,
        list(probe.sites.sites) if probe.sites is not None else [], looked, suggestion,
    )  # fmt: skip


def wanted(
    formats: Sequence[CandidateSpec] | None, candidates: Sequence[CandidateSpec] | None = None
) -> list[Candidate]:
    """What both lists together name, each once; if there is neither, all groups of formats.

    Raises:
        ValueError: an unknown name, or none.
    """
    for key, given in (("formats", formats), ("candidates", candidates)):
        if isinstance(given, str):
            raise ValueError(f"{key}={given!r} is not a list: write [{given}]")
    lists = [given for given in (formats, candidates) if given is not None]
    return resolve([spec for given in lists for spec in given] if lists else list(GROUPS))


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


def check(batches: int, method: str, by: str, activation: str, top: int, confidence: float, layers: int) -> None:
    """What `search` demands of its settings.

    Raises:
        ValueError: one is not possible.
    """
    for key, got, valid in (
        ("method", method, METHODS), ("by", by, (*BY, "whole")), ("activation", activation, ACTIVATIONS),
    ):  # fmt: skip
        if got not in valid:
            raise ValueError(f"{key}={got!r} is not one of {', '.join(valid)}")
    for key, number, low in (("batches", batches, 2), ("top", top, 1), ("layers", layers, 0)):
        if not isinstance(number, int) or isinstance(number, bool) or number < low:
            why = "; standard errors need 2 batches, and the paper takes 100" if key == "batches" else ""
            raise ValueError(f"{key}={number!r}: give a whole number from {low} upward{why}")
    if not isinstance(confidence, (int, float)) or not 0.5 <= confidence < 1:
        raise ValueError(f"confidence={confidence!r}: give a probability from 0.5 to below 1, such as 0.95")


def check_more(
    systematic: int, draws: int, slots: int, menu: Sequence[Any], bound: float | None, budget: float | None, spend: str
) -> None:
    """What `search` demands of what it measures besides.

    Raises:
        ValueError: one is not possible, or without effect.
    """
    for key, number, low in (("systematic", systematic, 0), ("draws", draws, 2), ("slots", slots, 0)):
        if not isinstance(number, int) or isinstance(number, bool) or number < low:
            raise ValueError(f"{key}={number!r}: give a whole number from {low} upward")
    if spend not in SPEND:
        raise ValueError(f"spend={spend!r} is not one of {', '.join(SPEND)}")
    for key, value in (("bound", bound), ("budget", budget)):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and 0 < value < math.inf):
            raise ValueError(f"{key}={value!r}: give a positive number")
        if value is not None and not menu:
            raise ValueError(f"{key}={value:g} is of a mixed assignment: say of what, menu=[mxfp4, mxfp8_e4m3]")
    if bound is not None and budget is not None:
        raise ValueError("bound= asks for the cheapest and budget= for the best: give one of them")


def _add_systematic(
    made: list[Any], probe: Probe, batches: Sequence[Any], leaders: Sequence[Candidate], draws: int, known: Journal
) -> None:
    """The two numbers of the leaders, into their rows."""
    if not batches:
        return
    absent = [each for each in leaders if (each.name, len(batches), draws) not in known.systematic]
    for each, numbers in zip(absent, two_numbers(probe, batches, absent, draws), strict=True):
        known.write_systematic(each.name, len(batches), draws, numbers)
    for i, row in enumerate(made):
        if row.candidate in leaders:
            numbers = known.systematic[row.name, len(batches), draws]
            made[i] = replace(row, systematic=numbers.systematic, noise_to_signal=numbers.noise_to_signal)


def _loss(model: nn.Module, loss: Callable[..., Tensor], batch: Any) -> Tensor:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        return loss(model, batch)
    x, y = batch
    if isinstance(x, dict):
        return loss(model(**x), y)
    return loss(model(*x) if isinstance(x, tuple) else model(x), y)
