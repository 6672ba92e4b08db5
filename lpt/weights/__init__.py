"""Network quantization W: weights on a grid, their masters beside them (the paper's section 4).

Open `rules` first: nearest, stochastic and hysteresis as functions. Then `masters`: a model's weights stay quantized
while an optimizer trains it; `attach` does so by hooks. Of one weight, `weight` has the parameter and its master, and
`step` its next value. `members` are all of a model's (`parameters` says which); `holding` shows, counts and saves them,
with `state`. `optimizers` has what is done around a step besides, `trials` finds out what an optimizer does, `closures`
runs what it is handed.
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
