"""Network quantization W: weights on a grid, their masters beside them (the paper's section 4).

Open `rules` first: nearest, stochastic and hysteresis as functions. Then `masters`: a model's weights stay quantized
while an optimizer trains it; `attach` does so by hooks. Of one weight, `weight` has the parameter and its master, and
`step` its next value. `members` are all of a model's (`parameters` says which); `holding` shows, counts and saves them,
with `state`. `optimizers` has what is done around a step besides, `trials` finds out what an optimizer does, `closures`
runs what it is handed. Remedies against flickering weights: `remedy` says what one is; `choosers`, `gradients`,
`ratios` and `transition` are those that there are, and `schemes` finds a rule by its name. `shifting` computes weights
from other trained tensors.
"""

from .attach import attach_weights_
from .choosers import Debounce, DriftHysteresis, Freezing, QEma, RateHysteresis, Settling
from .gradients import EWGS, Dampening, StableQAT
from .masters import QuantizedWeights
from .ratios import OsciReset, QRamping
from .remedy import Remedy
from .rules import Hysteresis, Nearest, Scheme, Stochastic, hysteresis, nearest
from .schemes import scheme
from .shifting import ShiftAndSign
from .transition import TransitionRate

__all__ = [
    "EWGS",
    "Dampening",
    "Debounce",
    "DriftHysteresis",
    "Freezing",
    "Hysteresis",
    "Nearest",
    "OsciReset",
    "QEma",
    "QRamping",
    "QuantizedWeights",
    "RateHysteresis",
    "Remedy",
    "Scheme",
    "Settling",
    "ShiftAndSign",
    "StableQAT",
    "Stochastic",
    "TransitionRate",
    "attach_weights_",
    "hysteresis",
    "nearest",
    "scheme",
]
