"""Classification: cross-entropy, and the shares of right answers."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from ..data.base import ImageData
from .task import Task

TOP = 5


class Classification(Task):
    """Batches are (images [N, C, H, W], classes [N]).

    Metrics, as shares: `accuracy`, and, if there are more than 5 classes, `accuracy_top5`: the right class is among
    the five of the highest scores.
    """

    monitor, more_is_better = "val/accuracy", True
    reads = ImageData

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        logits = self.model(x)
        scores = logits.detach()
        metrics = {"accuracy": (scores.argmax(1) == y).float().mean()}
        if scores.shape[1] > TOP:
            metrics[f"accuracy_top{TOP}"] = (scores.topk(TOP).indices == y[:, None]).any(1).float().mean()
        return functional.cross_entropy(logits, y), metrics
