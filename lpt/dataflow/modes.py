"""What watches the products of a pass, and a pass in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.module_tracker import ModuleTracker


class Watching(TorchDispatchMode):
    """Sees what PyTorch dispatches and, by `_tracker`, within which module."""

    def __init__(self) -> None:
        super().__init__()
        self._tracker = ModuleTracker()
        self._ran: dict[int, str] = {}  # autograd's sequence number of a product -> its module

    def __enter__(self) -> Any:
        self._tracker.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._tracker.__exit__(*error)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, the model evaluates; afterwards those of its modules train that trained before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
