"""Residual networks for small images: He et al., "Deep Residual Learning for Image Recognition", section 4.2."""

import torch
from torch import Tensor, nn

from ..dataflow.ops import Add
from ..errors import UserError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, summed. (N, C, H, W) -> (N, channels, H/stride, W/stride)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            projection = nn.Conv2d(in_channels, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))
        self.add = Add()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(self.add(y, self.shortcut(x)))


class ResNet(nn.Module):
    """Three stages of (depth - 2) / 6 blocks at `width`, 2 `width` and 4 `width` channels; two halvings of the image.

    Where the shape changes the shortcut is a 1x1 convolution (their option B). Images may be as small as 4x4.

    Args:
        depth: layers with weights on the main path: 6n + 2, so 8, 20, 32, 56, ...
        classes: number of outputs.
        width: channels of the first stage.
        in_channels: of the images; (N, in_channels, H, W) -> (N, classes).

    Raises:
        UserError: a depth that is not 6n + 2, or a number below 1.
    """

    def __init__(self, depth: int, classes: int, width: int = 16, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise UserError(f"depth={depth} of a ResNet is not 6n + 2: use 8, 14, 20, 32, 44, 56 or the like")
        if min(classes, width, in_channels) < 1:
            raise UserError(f"classes={classes}, width={width} and in_channels={in_channels} must each be at least 1")
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        blocks = (depth - 2) // 6
        self.stage1 = _stage(blocks, width, width, stride=1)
        self.stage2 = _stage(blocks, width, 2 * width, stride=2)
        self.stage3 = _stage(blocks, 2 * width, 4 * width, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * width, classes)
        self.apply(_he)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(self.flatten(self.pool(x)))


def _stage(blocks: int, in_channels: int, channels: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(blocks - 1)))


@torch.no_grad()
def _he(module: nn.Module) -> None:
    """He et al. 2015, "Delving Deep into Rectifiers", eq. 14: the variance of the error is kept on its way back."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        nn.init.zeros_(module.bias)
