"""Low-precision training: formats, data-flow quantization, weight quantization with hysteresis.

flow = lpt.attach_(model, lpt.DataFlow(activation="fp134", error="fp134", gradient="fp134"))
weights = lpt.attach_weights_(model, optimizer, "log4_hyst")
"""

from . import formats, indicators, weights
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
    "weights",
]
