"""What is kept of a master once the optimizer has stepped: `QuantizedWeights(master=...)`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import formats
from ..formats import Format
from .weight import Weight

NARROW = "fp169"
WORDS = ("fp32", NARROW, "quantized", "residual", "clamped")
Key = Callable[[Weight, str], Tensor]


class Keeping(Protocol):
    """One way to keep masters.

    Attributes:
        early: it comes before the next quantized weight is chosen, from what is left, and not after.
    """

    early: bool

    def __call__(self, w: Weight, key: Key | None) -> None:
        """Round `w.master` in place; `key`: of random bits, None to round to nearest."""
        ...


class Rounded:
    """On the grid of a format, by stochastic rounding; 16 bits before the next weight is chosen, blocks after."""

    def __init__(self, format: Format) -> None:
        self.format, self.early = format, format.block is None

    def __call__(self, w: Weight, key: Key | None) -> None:
        rounded_in_place(self.format, w, w.master, None if key is None else key(w, "master"))


class Quantized:
    """No more than the quantized weight itself (SWALP)."""

    early = False

    def __call__(self, w: Weight, key: Key | None) -> None:
        w.master.copy_(w.quantized)


class Residual:
    """The quantized weight, and 16 bits (1-6-9) of what it lacks (HFP8)."""

    early = False

    def __call__(self, w: Weight, key: Key | None) -> None:
        rest = formats.get(NARROW).round(w.master - w.quantized)
        torch.add(w.quantized, rest, out=w.master)


class Clamped:
    """No smaller and no larger in magnitude than the levels of its grid; 0 stays (DeepShift)."""

    early = True

    def __call__(self, w: Weight, key: Key | None) -> None:
        view, format = w.channels.view(w.master), w.plan.format
        scale = w.scale_of(view)
        most = format.floor(torch.full_like(view, math.inf), scale=scale)
        least = format.ceil(torch.full_like(view, torch.finfo(view.dtype).tiny), scale=scale)
        clamped = torch.copysign(view.abs().clamp(least, most), view)
        view.copy_(torch.where(view == 0, view, clamped))


def keeping(spec: str) -> Keeping | None:
    """What `master` asks for; None where a master is kept as it is.

    Raises:
        ValueError: it asks for nothing that there is.
    """
    own: dict[str, Any] = {"quantized": Quantized, "residual": Residual, "clamped": Clamped}
    if spec in own:
        return own[spec]()
    format = state_format("master", spec, *WORDS)
    return None if format.name == "fp32" else Rounded(format)


def state_format(key: str, spec: str, *words: str) -> Format:
    """The format that something is kept in beside the weights: fp32, fp169, or blocks.

    Raises:
        ValueError: another one.
    """
    if spec not in ("fp32", NARROW) and not (isinstance(spec, str) and "/" in spec):
        raise ValueError(
            f"{key}={spec!r} is not one of {', '.join(words or ('fp32', NARROW))}, nor a block format such as "
            "int8_full/sample"
        )
    return formats.get(spec)


def rounded_in_place(format: Format, w: Weight, values: Tensor, key: Tensor | None) -> None:
    """Values in the shape of a weight, by stochastic rounding; blocks lie as those of its own format."""
    view = values if format.block is None else w.channels.view(values)
    view.copy_(format.round(view, stochastic=key))
