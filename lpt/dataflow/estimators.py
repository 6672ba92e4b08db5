"""Estimators: which elements of a rounded operand a gradient passes back to."""

from __future__ import annotations

from torch import Tensor

from ..formats import Format


def passes(how: str, element: Format, y: Tensor) -> Tensor:
    """bool in the shape of y, which is an operand divided by its scales.

    Args:
        how: "clip", |y| below the largest level (Quartet, 2505.14669); "trust", rounding moves y by no more than half
            the widest step between levels (QuEST, 2502.05003).
        element: the format that rounds y.
    """
    if how == "clip":
        return y.abs() < element.high
    return (element.round(y) - y).abs() <= element.values().diff().max().item() / 2
