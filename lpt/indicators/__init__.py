"""Pure functions from tensors to numbers: what the callbacks log and the search ranks by.

Open `angles` for the paper's indicator of a format, `flips` for how often quantized weights change, `oscillation` for
whether they travel or dither, `rest` for how far they lie from their masters; `normalization` has batch-norm statistics
estimated anew.
"""

from .angles import angle
from .flips import confidence, flip_frequency, threshold_distance
from .normalization import statistics_anew
from .oscillation import oscillating, rate_of_change, reversals, travel_ratio
from .rest import bits_lost, rest_distance, rounding_noise

__all__ = [
    "angle",
    "bits_lost",
    "confidence",
    "flip_frequency",
    "oscillating",
    "rate_of_change",
    "rest_distance",
    "reversals",
    "rounding_noise",
    "statistics_anew",
    "threshold_distance",
    "travel_ratio",
]
