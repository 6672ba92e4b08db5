"""Small networks with every shape of data flow that the tests need."""

import torch
from torch import Tensor, nn

from lpt.dataflow.ops import Add, MatMul


class Block(nn.Module):
    """A residual block: fan-out of its input, a sum, in-place ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.add = Add()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.add(self.bn2(self.conv2(y)), x))


class Attention(nn.Module):
    """One head of attention whose products are modules."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.scores, self.mix, self.softmax = MatMul(), MatMul(), nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.softmax(self.scores(self.query(x), self.key(x).transpose(-2, -1)))
        return self.mix(scores, self.value(x))


def convolutional(width: int = 8, classes: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), Block(width), nn.MaxPool2d(2),
        Block(width), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
    )  # fmt: skip


def attentive(width: int = 8, classes: int = 10) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(20, width), nn.LayerNorm(width), Attention(width), nn.GELU(), nn.Dropout(0.1),
        nn.Linear(width, classes),
    )  # fmt: skip


def images(n: int = 16, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 8, 8, generator=generator), torch.randint(10, (n,), generator=generator)
