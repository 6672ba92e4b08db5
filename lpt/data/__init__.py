"""Data sets for classification, and the batches that are made of them.

Each function returns an `ImageData`; `Batches` iterates over one of its splits. Nothing slow is imported before a data
set that needs it is built.
"""

from .base import ImageData, Split
from .digits import digits
from .downloads import downloads
from .folder import folder
from .images import Augment, Images
from .loader import Batches
from .npz import npz

__all__ = ["Augment", "Batches", "ImageData", "Images", "Split", "digits", "downloads", "folder", "npz"]
