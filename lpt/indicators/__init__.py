"""Pure functions from tensors to numbers: what the callbacks log and the search ranks by.

Open `angles` for the paper's indicator of a format, `flips` for how often quantized weights change, `oscillation` for
whether they travel or dither; `normalization` has batch-norm statistics estimated anew.
"""

from .angles import angle
from .flips import confidence, flip_frequency, threshold_distance
from .normalization import statistics_anew
from .oscillation import oscillating, rate_of_change, reversals, travel_ratio

__all__ = [
    "angle",
    "confidence",
    "flip_frequency",
    "oscillating",
    "rate_of_change",
    "reversals",
    "statistics_anew",
    "threshold_distance",
    "travel_ratio",
]
