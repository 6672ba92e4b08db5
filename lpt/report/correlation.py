"""The figure of an experiment on prediction: trained loss against each indicator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

SHOWN = ("error", "activation/local", "both/local", "both/propagated", "mse/activation", "snr/both")
AXES = {"mse/activation": "mean squared error of A", "snr/both": "- signal-to-noise ratio of A and E (dB)"}

LABELLED = ("fp134", "fp152", "int6", "int4", "posit8_0", "posit8_1", "log4")
TICKS = [m * 10.0**k for k in range(-3, 3) for m in (1, 2, 5)]
HIGHEST = 5.0  # a greater loss is drawn here


def draw(indicators: Mapping[str, Any], loss: Any, bits: Sequence[int], names: Sequence[str], path: Path) -> None:
    """Scatter plots of the loss [formats] against some of the indicators [formats]; `path`.png and .svg."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    figure = Figure(figsize=(12, 7), layout="constrained")
    height = np.minimum(loss, HIGHEST)
    for axis, name in zip(figure.subplots(2, 3).flat, SHOWN, strict=True):
        values = np.asarray(indicators[name])
        points = axis.scatter(values, height, c=bits, cmap="viridis", s=22)
        for x, y, label in zip(values, height, names, strict=True):
            if label in LABELLED:
                axis.annotate(label, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7)
        if values.min() > 0:
            axis.set_xscale("log")
            if name not in AXES:
                axis.set_xticks([t for t in TICKS if values.min() <= t <= values.max()])
        axis.set_yscale("log")
        axis.set_yticks([t for t in TICKS if height.min() <= t <= HIGHEST])
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_minor_formatter(NullFormatter())
        if name not in AXES:
            axis.xaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set(xlabel=AXES.get(name, f"angle, {name} (degrees)"), ylabel="validation loss after training")
        axis.set_title(f"Spearman {stats.spearmanr(values, loss).statistic:.2f}", fontsize=10)
        axis.grid(alpha=0.3)
    figure.colorbar(points, ax=figure.axes, label="bits", shrink=0.6)
    for suffix in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{suffix}"), dpi=120)
