"""Models: small ResNets of our own, and any classifier of timm or torchvision.

They are plain modules in which everything that makes new values is a module, so that hooks can quantize it. timm and
torchvision are imported when one of theirs is asked for.
"""

from .external import timm, torchvision
from .resnet import ResNet
from .visible import Visible, visible

__all__ = ["ResNet", "Visible", "timm", "torchvision", "visible"]
