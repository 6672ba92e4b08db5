"""Models: ResNets, an LSTM, a GPT, a Transformer and a detector of our own, and any classifier of timm or torchvision.

They are plain modules in which everything that makes new values is a module, so that hooks can quantize it. Open
`resnet` first; `visible` does the same for other people's models, by `tracing`, and `visible_` (`parts`) for the parts
of one that cannot be traced as a whole; `attention` is torch's, spelled out. timm and torchvision are imported when one
of theirs is asked for (`external`).
"""

from .external import timm, torchvision
from .gpt import GPT
from .lstm import LSTMLanguageModel
from .parts import visible_
from .resnet import ResNet
from .ssdlite import SSDLite
from .transformer import Transformer
from .visible import Visible, visible

__all__ = [
    "GPT",
    "LSTMLanguageModel",
    "ResNet",
    "SSDLite",
    "Transformer",
    "Visible",
    "timm",
    "torchvision",
    "visible",
    "visible_",
]
