"""Low-precision training: formats, data-flow quantization, weight quantization with hysteresis.

flow = lpt.attach_(model, lpt.DataFlow(activation="fp134", error="fp134", gradient="fp134"))
weights = lpt.attach_weights_(model, optimizer, "log4_hyst")
ranking = lpt.search(model, batches, loss)
"""

import importlib
from typing import Any

from . import formats, indicators, ops, weights
from .flow import DataFlow, Flow, attach_
from .weights import QuantizedWeights, attach_weights_

__version__ = "0.1.0"
__all__ = [
    "DataFlow",
    "Flow",
    "QuantizedWeights",
    "attach_",
    "attach_weights_",
    "formats",
    "indicators",
    "models",
    "ops",
    "search",
    "weights",
]


def __getattr__(name: str) -> Any:
    """`lpt.search` and `lpt.models` are of a higher layer: loaded when they are first asked for."""
    if name in ("models", "search"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
