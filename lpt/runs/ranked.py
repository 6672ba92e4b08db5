"""What a search leaves in its folder, and what it says at its end."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ..report import slots
from ..report.ranking import LABELLED, draw
from ..search import Ranking
from .folder import replace


def written(ranking: Ranking, folder: Path, title: str, seconds: float) -> list[Path]:
    """Put the ranking into the folder as a table, as text and as figures; returns the figures."""
    figures = [*draw(ranking, folder, title), *slots.draw(ranking, folder, title)]
    replace(folder / "ranking.csv", ranking.csv())
    text = "\n".join(
        [*ranking.settings, "", ranking.table(20, LABELLED), "", f"{ranking.summary()}; {seconds:.0f} s",
         *told_of_slots(ranking, folder), verdict(ranking),
         f"everything: {folder}/ (ranking.csv, figures as .png and .svg)"]
    )  # fmt: skip
    replace(folder / "ranking.txt", text + "\n")
    return figures


def verdict(ranking: Ranking) -> str:
    """Where the paper's two favourites stand, and what they cost."""
    found = [row for name in ("fp134", "fp143") if (row := ranking.find(name)) and row.cost]
    if len(found) < 2:
        return ""
    places = [
        f"{row.name.upper()} is {row.rank} of {len(ranking)} ({ranking.angle(row):.2f} degrees, "
        f"cost {row.cost.total if row.cost else 0:.0f})"
        for row in found
    ]
    return f"{', '.join(places)}; costs are {ranking.costs}"


def told_of_slots(ranking: Ranking, folder: Path) -> list[str]:
    """The dearest operands, and the suggested assignment, with the command that trains in it; which is written, too."""
    lines = []
    for name, parts in ranking.parts.items():
        places = [(loss, product, slot) for product, own in parts.loss.items() for slot, loss in own.items()]
        worst = sorted(places, reverse=True)[:3]
        named = ", ".join(
            f"{slot} of {product} ({parts.angle(product, slot):.2f} degrees alone)" for _, product, slot in worst
        )
        lines.append(f"{name}: what turns the gradient most: {named}")
    if ranking.suggestion is None:
        return lines
    file = folder / "conf" / "products" / "suggested.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Suggested by a search: {ranking.suggestion.asked}.\n"
    replace(file, head + OmegaConf.to_yaml(OmegaConf.create(ranking.suggestion.products)))
    command = f"python train.py --config-dir {shlex.quote(str(folder.resolve() / 'conf'))} products=suggested"
    return [*lines, "", *str(ranking.suggestion).splitlines(), f"train in it: {command} format=fp32 weights=fp32", ""]


def results_of(ranking: Ranking) -> dict[str, Any]:
    """Flat keys for summary.json."""
    results: dict[str, Any] = {
        "best": ranking[0].name, "top": [row.name for row in ranking if row.top], "confidence": ranking.confidence,
        "costs": ranking.costs, "evaluations": ranking.evaluations,
        "exhaustive_evaluations": ranking.exhaustive, "batches": ranking.batches,
    }  # fmt: skip
    for name in LABELLED:
        if row := ranking.find(name):
            results |= {f"{name}/rank": row.rank, f"{name}/error": row.error, f"{name}/activation": row.activation}
    return results
