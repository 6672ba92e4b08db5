"""SSDLite on MobileNetV2 (Sandler et al. 2018, section 6.2): object detection with depthwise-separable heads.

N images, C classes without the background, A default boxes an image.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..dataflow.ops import Add
from ..errors import UserError
from ..places import place

ASPECT_RATIOS = (2, 3)  # of the default boxes, beside 1: Liu et al. 2016, section 2.2
EXTRAS = (512, 256, 256, 128)  # channels of the layers behind the backbone, at width 1


class SSDLite(nn.Module):
    """torchvision's MobileNetV2 and SSDLite head, on six maps of the image: the inner layer of the first block of
    stride 32, the backbone's last layer, and four further layers, each of half the last one's side.

    The state dict begins with torchvision's names of MobileNetV2's `features`.

    Args:
        classes: C.
        width: multiplier on all channels (the backbone's last layer keeps its 1280, as torchvision has it).
        size: side of the square images, in pixels.
        smallest, largest: sides of the default boxes on the first and on the last map, as shares of the image.
        pretrained: start the backbone from torchvision's ImageNet weights (downloads them), or from a file with the
            state dict of a MobileNetV2, or a checkpoint of a run of one.

    Attributes:
        default_boxes: (A, 4): left, top, right, bottom in pixels.
        last_products: names of the layers that give scores and offsets; their output is the network's.

    Raises:
        UserError: numbers that are not possible; weights that are not there or do not fit.
    """

    default_boxes: Tensor

    def __init__(
        self,
        classes: int,
        width: float = 1.0,
        size: int = 320,
        smallest: float = 0.2,
        largest: float = 0.95,
        pretrained: bool | str = False,
    ) -> None:
        super().__init__()
        if classes < 1 or not 0 < width <= 8 or size < 32 or not 0 < smallest < largest <= 1:
            raise UserError(
                f"classes={classes}, width={width}, size={size}, smallest={smallest}, largest={largest}: needs at "
                "least 1 class, a width above 0 (up to 8), 32 pixels or more, and 0 < smallest < largest <= 1"
            )
        from torchvision.models import MobileNetV2  # slow to import, and needed here only
        from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
        from torchvision.models.detection.image_list import ImageList
        from torchvision.models.detection.ssdlite import SSDLiteHead

        self.size = size
        self.features = MobileNetV2(width_mult=width).features
        if pretrained:
            _load(self.features, pretrained)
        for i, block in enumerate(self.features):
            if getattr(block, "use_res_connect", False):
                self.features[i] = Residual(block.conv)
        self.tapped = max(i for i, block in enumerate(self.features) if getattr(block, "stride", 1) == 2)
        tap, channels = self.features[self.tapped].conv[0].out_channels, self.features[-1].out_channels
        sides = [channels, *(max(16, int(extra * width)) for extra in EXTRAS)]
        self.extras = nn.ModuleList(_halving(a, b) for a, b in pairwise(sides))
        kinds = DefaultBoxGenerator([list(ASPECT_RATIOS) for _ in range(6)], smallest, largest)
        self.head = SSDLiteHead([tap, *sides], kinds.num_anchors_per_location(), classes + 1, nn.BatchNorm2d)
        heads = ("classification_head", "regression_head")
        self.last_products = tuple(f"head.{head}.module_list.{i}.1" for head in heads for i in range(6))
        with torch.no_grad():
            image = torch.zeros(1, 3, size, size)
            maps = self.eval().maps(image)
            boxes = kinds(ImageList(image, [(size, size)]), maps)[0]
        self.register_buffer("default_boxes", boxes, persistent=False)
        self.train()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, size, size) to scores (N, A, C + 1), the background first, and offsets (N, A, 4)."""
        if x.shape[-2:] != (self.size, self.size):
            raise ValueError(f"images of {tuple(x.shape[-2:])} pixels; this network was made for size={self.size}")
        found = self.head(self.maps(x))
        return found["cls_logits"], found["bbox_regression"]

    def maps(self, x: Tensor) -> list[Tensor]:
        """The six maps that boxes are found on: of strides 16, 32, 64, ..."""
        found = []
        for i, block in enumerate(self.features):
            if i == self.tapped:
                for j, layer in enumerate(block.conv):
                    x = layer(x)
                    if j == 0:
                        found.append(x)
            else:
                x = block(x)
        found.append(x)
        for extra in self.extras:
            x = extra(x)
            found.append(x)
        return found


class Residual(nn.Module):
    """A residual block of torchvision's MobileNetV2, its sum a module."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.add = Add()

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, self.conv(x))


def _halving(channels: int, out: int) -> nn.Sequential:
    """A layer that halves the side of its map: 1x1, depthwise 3x3 of stride 2, 1x1."""
    from torchvision.ops import Conv2dNormActivation

    def conv(a: int, b: int, **more: Any) -> nn.Module:
        layer = Conv2dNormActivation(a, b, activation_layer=nn.ReLU6, **more)
        nn.init.kaiming_normal_(layer[0].weight, mode="fan_out")  # as the backbone's
        return layer

    inner = out // 2
    return nn.Sequential(
        conv(channels, inner, kernel_size=1),
        conv(inner, inner, kernel_size=3, stride=2, groups=inner),
        conv(inner, out, kernel_size=1),
    )


def _load(features: nn.Module, source: bool | str) -> None:
    """Start a backbone from published weights, or from a file."""
    if source is True:
        from torchvision.models import MobileNet_V2_Weights

        where, state = "torchvision's MobileNetV2", MobileNet_V2_Weights.DEFAULT.get_state_dict
    else:
        file = place(source, "model.pretrained")
        where, state = str(file), lambda: torch.load(file, map_location="cpu", weights_only=True)
    try:
        found = state()
        found = found.get("state_dict", found)
        prefixes = ("model.features.", "features.")  # of a run's checkpoint, and of torchvision
        prefix = next(p for p in prefixes if any(key.startswith(p) for key in found))
        features.load_state_dict({k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)})
    except StopIteration:
        raise UserError(f"model.pretrained={source}: no `features` of a MobileNetV2 are in that file") from None
    except Exception as error:  # missing, damaged, no network, another width: torch raises all sorts
        raise UserError(
            f"model.pretrained={source}: {where} cannot be loaded ({str(error).splitlines()[0]}); give true, or a "
            "file with weights of a MobileNetV2 of this model.width"
        ) from error
