"""Data sets, and the batches that are made of them. Open `base` first: what every set offers.

Each function returns an `ImageData`, `DetectionData`, `TextData` or `PairData`; `Batches` iterates over one of its
splits. `images`, `detection`, `text` and `parallel` are the four kinds, `loader` makes batches; a set has a file of its
own. Nothing slow is imported before a data set that needs it is built.
"""

from .base import ImageData, Split
from .detection import DetectionData
from .digit_scenes import digit_scenes
from .digits import digits
from .downloads import downloads
from .folder import folder
from .images import Augment, Images
from .loader import Batches
from .npz import npz
from .number_names import number_names
from .parallel import PairData, iwslt14, parallel
from .text import TextData, pydoc, text
from .voc import voc

__all__ = [
    "Augment", "Batches", "DetectionData", "ImageData", "Images", "PairData", "Split", "TextData", "digit_scenes",
    "digits", "downloads", "folder", "iwslt14", "npz", "number_names", "parallel", "pydoc", "text", "voc",
]  # fmt: skip
