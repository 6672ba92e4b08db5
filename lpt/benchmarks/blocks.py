"""A training step whose products round all six operands by blocks, against the plain step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import Products, attach_products_
from ..dataflow.slots import SLOTS
from ..formats.kernels import Library
from ..models import GPT, ResNet
from .measuring import Work
from .stepping import Stepping

FORMATS = ("mxfp8_e4m3_rceil", "nvfp4")
TARGETS = {"compile=rounding": 1.6, "compile=true": 1.3}  # of MXFP8
TOKENS, CONTEXT = 1000, 128


class BlockStep(Stepping):
    """One training step of ResNet-20 on images of 32 pixels or of a GPT (0.9 million weights), on one random batch.

    Args:
        name: "ResNet-20" or "GPT".
        batch: images; a GPT takes a sixteenth as many texts of 128 tokens.
        format: of all six slots; None leaves the products alone.
        kernels: round in compiled passes.
        compile: the model is compiled, and calls those passes.
    """

    def __init__(
        self, name: str, batch: int, device: str, format: str | None = None, *, kernels: bool = False,
        compile: bool = False,
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        gpt = name == "GPT"
        model: nn.Module = GPT(TOKENS, context=CONTEXT) if gpt else ResNet(20, classes=10, in_channels=3)
        super().__init__(model.to(device), rate=0.01)
        if format is not None:
            handle = attach_products_(self.model, Products(**dict.fromkeys(SLOTS, format)))  # type: ignore[arg-type]
            handle.switches.kernels = Library(wait=True) if kernels or compile else None
        if gpt:
            text = torch.randint(TOKENS, (max(1, batch // 16), CONTEXT + 1), device=device)
            self.x, self.y = text[:, :-1], text[:, 1:]
        else:
            self.x = torch.randn(batch, 3, 32, 32, device=device)
            self.y = torch.randint(10, (batch,), device=device)
        if compile:
            self.model.compile()

    def loss(self, share: int | None = None) -> Tensor:
        return nn.functional.cross_entropy(self.model(self.x[:share]).movedim(-1, 1), self.y[:share])


def steps(batch: int, device: str) -> dict[str, Work]:
    """Both models: rounded eagerly, by kernels, and with the model compiled, there against the compiled plain step."""
    works = {}
    for name in ("GPT", "ResNet-20"):
        plain, compiled = f"{name}, fp32", f"{name}, fp32, compile=true"
        works[plain] = Work(BlockStep(name, batch, device), base=plain)
        works[compiled] = Work(BlockStep(name, batch, device, compile=True), base=compiled)
        for format in FORMATS:
            eager = BlockStep(name, batch, device, format)
            works[f"{name}, {format}, compile=false"] = Work(eager, base=plain)
            for how, target in TARGETS.items():
                whole = how == "compile=true"
                step = BlockStep(name, batch, device, format, kernels=not whole, compile=whole)
                asked = target if format == FORMATS[0] else None
                works[f"{name}, {format}, {how}"] = Work(step, base=compiled if whole else plain, target=asked)
    return works
