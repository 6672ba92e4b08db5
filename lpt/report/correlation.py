"""The figure of an experiment on prediction: trained loss against each indicator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

SHOWN = ("error", "activation/local", "both/local", "both/propagated", "mse/activation", "snr/both")
AXES = {"mse/activation": "mean squared error of A", "snr/both": "- signal-to-noise ratio of A and E (dB)"}


def draw(indicators: Mapping[str, Any], loss: Any, bits: Sequence[int], names: Sequence[str], path: Path) -> None:
    """Scatter plots of the loss [formats] against some of the indicators [formats]; `path`.png and .svg."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.5), layout="constrained")
    for axis, name in zip(figure.subplots(2, 3).flat, SHOWN, strict=True):
        points = axis.scatter(indicators[name], loss, c=bits, cmap="viridis", s=22)
        for x, y, label in zip(indicators[name], loss, names, strict=True):
            if label in ("fp134", "fp143", "fp152", "int8", "int4", "posit8_1", "log4"):
                axis.annotate(label, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=7)
        axis.set(yscale="log", xlabel=AXES.get(name, f"angle, {name} (degrees)"), ylabel="validation loss, trained")
        if np.min(indicators[name]) > 0:
            axis.set_xscale("log")
        axis.set_title(f"Spearman {stats.spearmanr(indicators[name], loss).statistic:.2f}", fontsize=10)
        axis.grid(alpha=0.3)
    figure.colorbar(points, ax=figure.axes, label="bits", shrink=0.6)
    for suffix in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{suffix}"), dpi=120)
