"""Training schemes side by side: ranks with a stated answer, and what each of them rounds, read from its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf

from .. import formats
from ..dataflow.slots import SLOTS, Products
from ..formats import Blocks, Format
from ..report import tables
from ..report.runs import LESS_IS_BETTER, Result
from ..report.sections import Table
from ..report.tables import Row
from ..search.cost import cost
from .makers import Made, rows_of, scores
from .plan import Plan, Run

ANGLE, FLIPS = "angle/flow", "flip_frequency"
TOLD = [
    "Intervals are of 95 % each, paired over seeds, and not corrected for how many schemes are compared.",
    "Products run in float32 on values of the grids: accumulators are not narrowed, as they would be in hardware.",
    "Flips are those of weights that are kept rounded; where products round them, none are counted.",
    "A step's milliseconds are a whole run's time over its steps, validation included: what the simulation costs here.",
    "Gates are a multiplier-accumulator's of the elements x and w by the search's model (exact accumulator, scales of "
    "blocks apart), where both are of one format.",
]


def side_by_side(plan: Plan, runs: Sequence[Run]) -> Made:
    """Ranks by model, with mean rank; what each scheme rounds; final metrics with intervals; bars."""
    rows = rows_of(plan, runs)
    made, figures, notes = scores(plan, runs)
    ranked = [_ranked(plan, model, [row for row in rows if row.labels["model"] == model]) for model in plan.models]
    said = [answer for _, answer in ranked if answer]
    over_all = [_over_all(plan, [table for table, _ in ranked])] if len(plan.models) > 1 else []
    each = [table for table, _ in ranked if table.rows]
    return [*over_all, *each, _rounded(plan, rows), *made], figures, [*said, *TOLD, *notes]


def _ranked(plan: Plan, model: str, rows: Sequence[Row]) -> tuple[Table, str]:
    """The schemes of one model, the best first, and what can be said of that order."""
    metric = plan.models[model]["metric"]
    less = metric in LESS_IS_BETTER
    found = {row.labels["arm"]: row for row in rows if row.values}
    means = {arm: tables.mean_sd([*row.values.values()])[0] or 0.0 for arm, row in found.items()}
    order = sorted((arm for arm in means if arm != plan.baseline), key=lambda arm: means[arm] * (1 if less else -1))
    base, best = found.get(plan.baseline or ""), found.get(order[0]) if order else None
    cells = []
    for arm in [*order, *([plan.baseline] if base is not None else [])]:
        row = found[str(arm)]
        against = [_against(row, other) for other in (base, best)]
        step = [1000 * r.summary["wall_seconds"] / r.summary["steps"] for r in row.results if r.summary.get("steps")]
        extra = [tables.mean_sd(v)[0] for v in (_of(row, ANGLE), [100 * f for f in _of(row, FLIPS)], step)]
        place = order.index(str(arm)) + 1 if arm in order else "-"
        cells.append([place, arm, len(row.values), tables.Spread(tuple(row.values.values())), *against, *extra])
    columns = ["rank", "scheme", "seeds", f"{metric}, mean ± SD", f"difference to {plan.baseline} [95 %]",
               "difference to the first [95 %]", "angle (degrees)", "flips (% a step)", "a step (ms)"]  # fmt: skip
    title = f"{model}: schemes by {metric}{', lower is better' if less else ''}"
    answer = _answer(model, order, found, less)
    return Table(title, columns, cells, answer), answer


def _against(row: Row, other: Row | None) -> tables.Difference | str | None:
    if other is None or other is row:
        return ""
    found = tables.difference(row.values, other.values)
    return None if found is None else replace(found, less=row.metric in LESS_IS_BETTER)


def _of(row: Row, key: str) -> list[float]:
    found = [result.value(key) for result in row.results]
    return [value for value in found if value is not None]


def _answer(model: str, order: Sequence[str], found: Mapping[str, Row], less: bool) -> str:
    """Which scheme is first, and which of the others may as well be."""
    if not order:
        return ""
    best = found[order[0]]
    head = f"{model}: first of {len(order)} is {order[0]} ({tables.Spread(tuple(best.values.values()))})"
    if len(best.values) < 2:
        return f"{head}; one seed, so nothing is said of how sure that is."
    apart: list[str] = []
    near: list[str] = []
    for arm in order[1:]:
        d = tables.difference(found[arm].values, best.values)
        worse = d is not None and replace(d, less=less).verdict == "worse"
        (apart if worse else near).append(arm)
    sure = f"worse beyond the interval: {', '.join(apart)}" if apart else "none is worse beyond its interval"
    alike = f"not told apart from it: {', '.join(near)}" if near else "all others are told apart from it"
    return f"{head}; {alike}; {sure}."


def _over_all(plan: Plan, each: Sequence[Table]) -> Table:
    """Ranks by model, and their mean over the models that have all of a scheme's."""
    ranks = [{row[1]: row[0] for row in table.rows if row[0] != "-"} for table in each]
    arms = [arm for arm in plan.arms if any(arm in of for of in ranks)]
    means = {a: sum(of[a] for of in ranks) / len(ranks) for a in arms if all(a in of for of in ranks)}
    order = sorted(arms, key=lambda arm: (means.get(arm, float("inf")), arm))
    rows = [[arm, *(of.get(arm) for of in ranks), means.get(arm)] for arm in order]
    return Table("Ranks by mean", ["scheme", *plan.models, "mean rank"], rows)


# -- what a scheme rounds ------------------------------------------------------------------------------------------


def _rounded(plan: Plan, rows: Sequence[Row]) -> Table:
    """From the configuration of a scheme's first run."""
    configs: dict[str, Result] = {}
    for row in rows:
        for result in row.results:
            if result.config:
                configs.setdefault(row.labels["arm"], result)
    cells = [[arm, *_cells(configs[arm])] for arm in plan.arms if arm in configs]
    columns = ["scheme", *SLOTS, "bits of the six", "scale rules", "A, E, G", "W", "gates"]
    return Table("Who rounds what (the most that a layer has; '-' is full precision)", columns, cells)


def _cells(result: Result) -> list[Any]:
    config: Any = OmegaConf.to_container(OmegaConf.create(result.config), resolve=True)
    asked = {key: value for key, value in config.get("products", {}).items() if key not in ("_target_", "value")}
    slots = Products(**asked).of("")
    texts = [str(slots[name]) if name in slots else "-" for name in SLOTS]
    bits = [f"{slots[name].grid.bits:.4g}" if name in slots else "32" for name in SLOTS]
    rules = dict.fromkeys(_rule(slots[name].grid) for name in SLOTS if name in slots and slots[name].rounds)
    flow, weights = config["format"], config["weights"]
    made = [_name(flow[key]) for key in ("activation", "error", "gradient")]
    kept = _name(weights["format"])
    how = "-" if kept == "fp32" else f"{kept} {weights['scheme']}, scale {weights['scaling']}"
    if (other := config.get("parametrization")) is not None:
        how = f"by {other['_target_'].rpartition('.')[2]}"
    edges = "-" if set(made) == {"fp32"} else f"{', '.join(made)}, scale {flow['scaling']}, {flow['rounding']}"
    pair = [slots[name].grid if name in slots else None for name in ("x", "w")]
    return [*texts, " ".join(bits), "; ".join(rules) or "-", edges, how, _gates(pair, made[0], kept)]


def _rule(grid: Format) -> str:
    if not isinstance(grid, Blocks):
        return "a power of two a tensor"
    return f"{grid.scale} {grid.rule}"


def _name(spec: Any) -> str:
    return formats.get(spec).name


def _gates(pair: Sequence[Format | None], activation: str, weight: str) -> float | None:
    """Of x and w, or else of A and W, if they are of one format that the model knows."""
    elements = [g.element if isinstance(g, Blocks) else g for g in pair if g is not None]
    if not elements:
        elements = [formats.get(activation), formats.get(weight)]
    first = elements[0]
    if len(elements) != 2 or any(e != first for e in elements) or first._levels is None:
        return None
    return cost(first).total
