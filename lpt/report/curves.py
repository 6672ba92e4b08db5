"""The curves of one run: a picture in its folder."""

from __future__ import annotations

from pathlib import Path

from .drawing import sheet
from .figure import Axis, Figure, Series
from .runs import METRICS, named, read

STEP = Axis("optimizer step")


def of_run(folder: Path, title: str = "") -> Path | None:
    """Draw loss, metric, flips and angles of the run in `folder` into its curves.png; returns that, or None if nothing
    was logged yet.

    Raises:
        UserError: its metrics.csv is damaged.
    """
    run = read(folder)
    names = [name.partition("/")[2] for name in METRICS]
    columns = [f"{part}/{name}" for name in names for part in ("train", "val")]
    known = run.curves(*columns, "flip_frequency", "angle/flow", "angle/gradient")
    figures: list[Figure] = []
    for name in ("loss", *(n for n in names if n != "loss")):
        both = {part: known[f"{part}/{name}"] for part in ("train", "val")}
        series = [Series({"train": "training", "val": "validation"}[p], *both[p]) for p in both if both[p][0]]
        if series and (name != "perplexity" or len(figures) < 2):
            label = named(f"val/{name}").removeprefix("validation ")
            figures.append(Figure(name, label.partition(",")[0].partition(" (")[0], "lines", STEP, Axis(label), series))
    if known["flip_frequency"][0]:
        axis = Axis(named("flip_frequency"), log=True)
        figures.append(
            Figure("flips", "flip frequency", "lines", STEP, axis, [Series("flips", *known["flip_frequency"])])
        )
    angles = {"from A and E": known["angle/flow"], "with G": known["angle/gradient"]}
    if series := [Series(label, *curve) for label, curve in angles.items() if curve[0]]:
        figures.append(Figure("angles", "gradient's angle", "lines", STEP, Axis("degrees"), series))
    if not figures:
        return None
    (path,) = sheet(figures, folder, "curves", title, columns=2, suffixes=("png",))
    return path
