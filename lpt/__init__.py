"""Low-precision training: formats, data-flow quantization, weight quantization with hysteresis.

flow = lpt.attach_(model, lpt.DataFlow(activation="fp134", error="fp134", gradient="fp134"))
products = lpt.attach_products_(model, lpt.Products(x="mxfp8_e4m3", w="mxfp8_e4m3"))
weights = lpt.attach_weights_(model, optimizer, "log4_hyst")
ranking = lpt.search(model, batches, loss)
lpt.export(model, weights, flow, to="model.safetensors")

A package is a floor, and imports go down only: `formats`; `weights`, `dataflow`, `indicators`, `execution`; `models`,
`data`, `search`, `hardware`, `exchange`; `tasks`, `callbacks`, `report`; `runs`; `reproductions`, `benchmarks`;
`commands`. Open `formats/base.py` and `dataflow/flow.py` first.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import formats, indicators, weights
    from .dataflow import DataFlow, Flow, Products, Slot, attach_, attach_products_, ops
    from .exchange import export, load_exported
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
    "export",
    "formats",
    "indicators",
    "load_exported",
    "models",
    "ops",
    "search",
    "weights",
]

# Where each name is; loaded when it is first asked for, so that what only reads the files of runs need not load torch.
# `loggers` and `training` are names that configurations give as `_target_`.
_FROM = dict.fromkeys(("DataFlow", "Flow", "Products", "Slot", "attach_", "attach_products_"), "dataflow")
_FROM |= dict.fromkeys(("QuantizedWeights", "attach_weights_"), "weights")
_FROM |= dict.fromkeys(("export", "load_exported"), "exchange")
_MODULES = {name: name for name in ("dataflow", "formats", "indicators", "models", "search", "weights")}
_MODULES |= {"ops": "dataflow.ops", "loggers": "callbacks.loggers", "training": "runs.training"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        found: Any = importlib.import_module(f".{_MODULES[name]}", __name__)
    elif name in _FROM:
        found = getattr(importlib.import_module(f".{_FROM[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


class _Ops(ModuleType):
    """`lpt.ops` until it is used, so that `from lpt.ops import Add` works, too."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what importing asks of a module
            raise AttributeError(name)
        sys.modules[self.__name__] = found = importlib.import_module(".dataflow.ops", __package__)
        return getattr(found, name)


sys.modules[f"{__name__}.ops"] = _Ops(f"{__name__}.ops")
