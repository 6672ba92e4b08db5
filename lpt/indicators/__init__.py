"""Pure functions from tensors to numbers: what the callbacks log and the search ranks by.

Open `angles` for the paper's indicator of a format, `flips` for how often quantized weights change.
"""

from .angles import angle
from .flips import flip_frequency, threshold_distance

__all__ = ["angle", "flip_frequency", "threshold_distance"]
