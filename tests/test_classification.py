"""Classification: top-1 and top-5."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from lpt.data import digits
from lpt.tasks.classification import Classification
from lpt.tasks.schedules import constant


class Fixed(nn.Module):
    """Gives the same scores whatever it sees."""

    def __init__(self, scores: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores


@pytest.mark.parametrize("classes", [5, 6, 10])
def test_top_5_is_told_where_it_means_something(classes: int) -> None:
    scores = torch.arange(classes).float().flip(0).repeat(classes, 1)  # the first class is always the best
    task = Classification(
        Fixed(scores), digits(), partial(torch.optim.SGD, lr=0.1), constant, batch_size=2, eval_batch_size=2, seed=0
    )
    loss, metrics = task.loss((torch.zeros(classes, 1, 8, 8), torch.arange(classes)))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(scores, torch.arange(classes)))
    assert metrics["accuracy"].item() == pytest.approx(1 / classes)
    assert ("accuracy_top5" in metrics) == (classes > 5)
    if classes > 5:
        assert metrics["accuracy_top5"].item() == pytest.approx(5 / classes)
