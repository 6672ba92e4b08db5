"""Low-precision training: formats, data-flow quantization, weight quantization with hysteresis.

flow = lpt.attach_(model, lpt.DataFlow(activation="fp134", error="fp134", gradient="fp134"))
products = lpt.attach_products_(model, lpt.Products(x="mxfp8_e4m3", w="mxfp8_e4m3"))
weights = lpt.attach_weights_(model, optimizer, "log4_hyst")
ranking = lpt.search(model, batches, loss)

A package is a floor, and imports go down only: `formats`; `weights`, `dataflow`, `indicators`, `execution`; `models`,
`data`, `search`; `tasks`, `callbacks`, `report`; `runs`; `reproductions`, `benchmarks`. Open `formats/base.py` and
`dataflow/flow.py` first.
"""

import importlib
import sys
from typing import Any

from . import formats, indicators, weights
from .dataflow import DataFlow, Flow, Products, Slot, attach_, attach_products_, ops
from .weights import QuantizedWeights, attach_weights_

__version__ = "0.1.0"
__all__ = [
    "DataFlow",
    "Flow",
    "Products",
    "QuantizedWeights",
    "Slot",
    "attach_",
    "attach_products_",
    "attach_weights_",
    "formats",
    "indicators",
    "models",
    "ops",
    "search",
    "weights",
]

sys.modules[f"{__name__}.ops"] = ops  # so that `from lpt.ops import Add` works, too
# What is loaded when it is first asked for. The last two are names that configurations give as `_target_`.
_LATER = {"models": "models", "search": "search", "loggers": "callbacks.loggers", "training": "runs.training"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f".{_LATER[name]}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
