"""How much of a task's training is done on the grids that were asked for, found on a copy of its model."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch.utils import _pytree as pytree

from ..callbacks.quantization import Quantization
from ..dataflow import DataFlow, attach_, attach_products_
from ..dataflow.auditing import Coverage, coverage
from ..search import Candidate
from ..tasks.task import Task
from .build import told

EXAMPLES = 2


def of_run(task: Task, quantization: Quantization) -> Coverage:
    """Of a run with this quantization, on two training examples; neither `task` nor any random state changes.

    Raises:
        UserError: a transform over tokens or examples that does not divide a batch.
    """
    with _Copy(task), torch.random.fork_rng(devices=[]):
        flow = attach_(task.model, quantization.make_flow)
        asked = quantization.make_products
        products = attach_products_(task.model, asked) if asked.asked else None
        weights = quantization.make_weights(task.model)
        batch = task.probe_batch(task.batch_size if products is not None and products.needs_whole_batches else EXAMPLES)
        with told("products"):
            return coverage(flow, lambda: task.loss(batch)[0], weights, products)


def of_search(task: Task, candidates: Sequence[Candidate]) -> tuple[Coverage, str]:
    """Of what a search rounds, A and E, whatever the format, and ""; or, if it is of products alone, of the first
    one's, and its name."""
    with _Copy(task), torch.random.fork_rng(devices=[]):
        if all(each.products is not None for each in candidates):
            off = attach_(task.model, DataFlow("fp32", "fp32", "fp32"))
            asked = candidates[0].products
            assert asked is not None
            with told("search"):
                products = attach_products_(task.model, asked)
            batch = pytree.tree_map(lambda part: part.to(task.device), task.probe_batch(EXAMPLES))
            return coverage(off, lambda: task.loss(batch)[0], None, products), candidates[0].name
        flow = attach_(task.model, DataFlow("fp134", "fp134", "fp32"))
        batch = pytree.tree_map(lambda part: part.to(task.device), task.probe_batch(EXAMPLES))
        return coverage(flow, lambda: task.loss(batch)[0]), ""


class _Copy:
    """Within, the task's model is a copy."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def __enter__(self) -> None:
        self.model = self.task.model
        self.task.model = copy.deepcopy(self.model)

    def __exit__(self, *_: object) -> None:
        self.task.model = self.model
