"""Network quantization W: weights on a grid, their masters beside them (the paper's section 4).

Open `rules` first: nearest, stochastic and hysteresis as functions. `masters` keeps a model's weights quantized while
an optimizer trains it (`step`: one step of one weight; `optimizers`: their decay and momenta), `attach` does so by
hooks, `parameters` says which weights those are.
"""

from .attach import attach_weights_
from .masters import QuantizedWeights
from .rules import Hysteresis, Nearest, Scheme, Stochastic, hysteresis, nearest, scheme

__all__ = [
    "Hysteresis",
    "Nearest",
    "QuantizedWeights",
    "Scheme",
    "Stochastic",
    "attach_weights_",
    "hysteresis",
    "nearest",
    "scheme",
]
