"""The small networks that experiments are made of: a training step beside the plain one, and what one call costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..dataflow.edge import Edge
from ..dataflow.quantizer import Mode, Quantizer
from ..formats import get
from ..formats.kernels import Library
from ..models import LSTMLanguageModel, ResNet, Transformer
from .measuring import Work
from .stepping import Stepping
from .training import PROBE_EVERY, Step

LOOPS = 20  # Edges in a row, and steps a round of the smallest network
CIFAR_GOALS = {32: 1.3, 128: 1.2, 256: 1.15}  # by batch


class Digits(Stepping):
    """ResNet-8 on images of 8x8 pixels."""

    def __init__(self, batch: int = 32) -> None:
        torch.manual_seed(0)
        super().__init__(ResNet(8, classes=10, in_channels=1), rate=0.05)
        self.x, self.y = torch.randn(batch, 1, 8, 8), torch.randint(10, (batch,))


class Words(Stepping):
    """LSTM of 2 x 128 cells, 35 words of Penn Treebank's 10,000 at a time, with 20 sequences side by side."""

    def __init__(self, batch: int = 20, words: int = 35, vocabulary: int = 10_000) -> None:
        torch.manual_seed(0)
        super().__init__(LSTMLanguageModel(vocabulary, width=128, dropout=0.0), rate=1.0)
        self.x, self.y = torch.randint(vocabulary, (2, batch, words)).unbind()

    def loss(self, share: int | None = None) -> Tensor:
        return nn.functional.cross_entropy(self.model(self.x[:share])[0].flatten(0, 1), self.y[:share].flatten())


class Sentences(Stepping):
    """Transformer of 2 + 2 layers, width 128, on pairs of sentences of 16 tokens, out of 10,000."""

    def __init__(self, batch: int = 64, tokens: int = 16, vocabulary: int = 10_000) -> None:
        torch.manual_seed(0)
        model = Transformer(vocabulary, pad=0, width=128, layers=2, feedforward=256, dropout=0.0)
        super().__init__(model, rate=0.01)
        self.x, self.y = torch.randint(1, vocabulary, (2, batch, tokens)).unbind()

    def loss(self, share: int | None = None) -> Tensor:
        x, y = self.x[:share], self.y[:share]
        return nn.functional.cross_entropy(self.model(x, y).flatten(0, 1), y.flatten())


def networks(small: bool = False) -> dict[str, Work]:
    """Plain eager FP32, and quantized as it is by default once its compiled code is there.

    Args:
        small: a tiny share of each, to see that it runs.
    """
    few = {"batch": 2} if small else {}
    cases: dict[str, tuple[Callable[[], Stepping], float]] = {
        "ResNet-8, digits, batch 32": (lambda: Digits(**few), 1.4)
    }
    for batch, goal in CIFAR_GOALS.items():
        cases[f"ResNet-20, batch {batch}"] = (partial(Step, 20, 2 if small else batch), goal)
    cases["LSTM 2x128, PTB"] = (lambda: Words(**few, **({"words": 2} if small else {})), 1.4)
    cases["Transformer 2+2, width 128"] = (lambda: Sentences(**few), 1.4)
    works: dict[str, Work] = {}
    for name, (make, goal) in cases.items():
        plain, quantized = make(), make()
        quantized.quantize(fuse=True)
        works[f"{name}, fp32"] = Work(plain, base=f"{name}, fp32")
        works[name] = Work(quantized, base=f"{name}, fp32", target=goal)
        if isinstance(quantized, Digits):
            works["its indicators' probe"] = Work(quantized.probe, base=f"{name}, fp32")
            parts = {name: 1.0, "its indicators' probe": 1 / PROBE_EVERY}
            works["ResNet-8, digits, with indicators"] = Work(base=f"{name}, fp32", target=1.6, parts=parts)
    return works


# -- one call --------------------------------------------------------------------------------------------------------


def calls(rounds: int) -> dict[str, float]:
    """Microseconds of one call with one thread, the least of 20 times `rounds`; of an Edge less its roundings."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _calls(20 * rounds)
    finally:
        torch.set_num_threads(threads)


def _calls(times: int) -> dict[str, float]:
    mode, fp134 = Mode(kernels=Library(wait=True)), get("fp134")
    made: list[Quantizer] = []

    def quantizers(place: str) -> tuple[Quantizer, Quantizer]:
        both = Quantizer(fp134, 1, True, mode), Quantizer(fp134, 1, True, mode)
        for quantizer in both:
            quantizer.scale.fill_(2)
            quantizer.started = True
        made.extend(both)
        return both

    plain, edged = (nn.Sequential(*[nn.ReLU() for _ in range(LOOPS)]) for _ in range(2))
    for i, module in enumerate(edged):
        module.register_forward_hook(Edge(str(i), edged, mode, quantizers))
    found = {}
    for elements in (4_096, 32_768):
        x = torch.randn(elements)
        rounding = _least(partial(made[0], x, True), times)
        found[f"a rounding of {elements:,} values"] = rounding
        x = x.clone().requires_grad_()
        forward, both = (
            (_least(partial(run, edged, x), times) - _least(partial(run, plain, x), times)) / LOOPS
            for run in (_forward, _forward_and_backward)
        )
        found[f"an Edge beside its rounding of {elements:,}, forward"] = forward - rounding
        found[f"an Edge beside its rounding of {elements:,}, backward"] = both - forward - rounding
    return found


def _forward(model: nn.Module, x: Tensor) -> None:
    model(x)


def _forward_and_backward(model: nn.Module, x: Tensor) -> None:
    model(x).backward(x.detach())


def _least(run: Callable[[], object], times: int) -> float:
    """Microseconds, the least of `times`."""
    found = []
    for _ in range(times + 2):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return 1e6 * min(found[2:])
