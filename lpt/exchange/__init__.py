"""Trained networks as files that others can read: out by `export`, back by `load_exported`.

A file is safetensors: the codes of quantized weights, packed (`packed`), their scales, all other tensors as they are,
and, as JSON in its metadata under "lpt", what is needed to decode them and to round activations as in the run. Open
`exporting` first, then `loading`. Nothing in a file is executed: of what it names, only `lpt.models` is called.
"""

from .exporting import export
from .loading import load_exported

__all__ = ["export", "load_exported"]
