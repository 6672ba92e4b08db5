"""Trained networks as files that others can read: out by `export`, back by `load_exported`.

A file is safetensors: the codes of quantized weights, packed (`packed`), their scales, all other tensors as they are,
and, as JSON in its metadata under "lpt", what is needed to decode them and to round activations as in the run. Open
`exporting` first, then `loading`. Nothing in a file is executed: of what it names, only `lpt.models` is called.
From such a file `to_onnx` makes an ONNX graph (`onnx`, `carriers`), `to_program` a program of torch.export (`program`),
and `torchao_of` torchao's tensors (`torchao`). `layouts` reads weights that other programs name in ways of their own.
"""

from .exporting import export
from .loading import load_exported
from .onnx import to_onnx
from .program import to_program
from .torchao import torchao_of

__all__ = ["export", "load_exported", "to_onnx", "to_program", "torchao_of"]
