"""Classification: cross-entropy, and the share of right answers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from ..data.base import ImageData
from .task import Task


class Classification(Task):
    """Batches are (images [N, C, H, W], classes [N]); metrics: accuracy, as a share."""

    monitor, more_is_better = "val/accuracy", True
    reads = ImageData

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        logits = self.model(x)
        accuracy = (logits.detach().argmax(1) == y).float().mean()
        return functional.cross_entropy(logits, y), {"accuracy": accuracy}
