"""A training step, quantized against plain: its ratio, how that depends on model and batch, and where the time goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from ..dataflow.quantizer import Quantizer
from ..execution.bf16 import ExactProducts
from ..models import ResNet, torchvision
from ..weights import QuantizedWeights
from .measuring import Work, quartiles, timed
from .stepping import PROBE_BATCH, Stepping

PROBE_EVERY = 100  # steps, as conf/indicators/default.yaml has it


class Step(Stepping):
    """One training step of a ResNet, called again and again on the same random batch.

    Args:
        depth: 8, 20, ... are those of CIFAR's shapes; 18 is ImageNet's, at 224 pixels.
        batch: images.
        quantized: A, E and G in FP134, weights log4_hyst.
        fuse: the rounding is compiled; compile: the model is compiled, too.
        scaling: of A, E and G.
        bf16: products in bfloat16, as precision=bf16 has it.
        channels_last: memory format of the model and the images.
    """

    def __init__(
        self, depth: int, batch: int, device: str = "cpu", *, quantized: bool = False, fuse: bool = False,
        compile: bool = False, scaling: str = "tracked", bf16: bool = False, channels_last: bool = False,
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        large = depth == 18
        model: nn.Module = torchvision("resnet18", classes=1000) if large else ResNet(depth, classes=10, in_channels=3)
        side = 224 if large else 32
        layout = torch.channels_last if channels_last else torch.contiguous_format
        super().__init__(model.to(device, memory_format=layout), rate=0.1)  # type: ignore[call-overload]
        if quantized:
            flow = self.quantize(fuse, scaling)
            if bf16:
                ExactProducts(flow)
        self.bf16 = bf16
        self.x = torch.randn(batch, 3, side, side, device=device).to(memory_format=layout)
        self.y = torch.randint(1000 if large else 10, (batch,), device=device)
        self()  # starts the scales
        if compile:
            self.model.compile()

    def loss(self, share: int | None = None) -> Tensor:
        """Of the batch, or of its first `share` images."""
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.bf16):
            return nn.functional.cross_entropy(self.model(self.x[:share]), self.y[:share])


def step(depth: int, batch: int, device: str) -> dict[str, Work]:
    """Plain FP32 and quantized, eager and compiled. Flips are counted in each step; a probe is added by its share."""
    fused = Step(depth, batch, device, quantized=True, fuse=True)
    eager, compiled = "fp32, eager", "fp32, compile=true"
    works = {
        eager: Work(Step(depth, batch, device)),
        compiled: Work(Step(depth, batch, device, compile=True)),
        "quantized, eager": Work(Step(depth, batch, device, quantized=True)),
        "quantized, compile=rounding": Work(fused),
        "quantized, compile=true": Work(
            Step(depth, batch, device, quantized=True, fuse=True, compile=True), base=compiled
        ),
        f"the indicators' probe, {PROBE_BATCH} images": Work(fused.probe),
    }
    probe = [*works][-1]
    for name, target in (("quantized, compile=rounding", 1.6), ("quantized, compile=true", 1.15)):
        parts = {name: 1.0, probe: 1 / PROBE_EVERY}
        works[f"{name}, indicators"] = Work(base=works[name].base, target=target, parts=parts)
    return works


def depths(batch: int, device: str) -> dict[str, Work]:
    """Eager against the compiled rounding for ResNets of four sizes."""
    return _pairs({f"ResNet-{depth}": (depth, batch) for depth in (8, 20, 32, 56)}, device)


def batches(depth: int, device: str) -> dict[str, Work]:
    """Eager against the compiled rounding for three sizes of the batch."""
    return _pairs({f"batch {batch}": (depth, batch) for batch in (32, 128, 256)}, device)


def _pairs(cases: dict[str, tuple[int, int]], device: str) -> dict[str, Work]:
    works = {}
    for name, (depth, batch) in cases.items():
        works[f"{name}, fp32"] = Work(Step(depth, batch, device), base=f"{name}, fp32")
        works[f"{name}, quantized"] = Work(
            Step(depth, batch, device, quantized=True, fuse=True), base=f"{name}, fp32", target=1.6
        )
    return works


def gpu(batch: int, device: str = "cuda") -> dict[str, Work]:
    """ResNet-18, 224 pixels, channels last, compiled: tracked and current scales, and bf16, against the plain step."""

    def step(**more: Any) -> Step:
        return Step(18, batch, device, compile=True, channels_last=True, **more)

    plain = step()
    quantized = {scaling: step(quantized=True, fuse=True, scaling=scaling) for scaling in ("tracked", "current")}
    works = {
        "bf16": Work(step(bf16=True), base="bf16"),
        "quantized, bf16": Work(step(quantized=True, fuse=True, bf16=True), base="bf16", target=1.25),
    }
    for tf32 in (False, True):
        name = f"fp32, TF32 {'on' if tf32 else 'off'}"
        works[name] = Work(with_tf32(plain, tf32), base=name)
        for scaling, target in (("tracked", 1.25), ("current", None)):
            run = with_tf32(quantized[scaling], tf32)
            works[f"quantized, {scaling} scales, {name[6:]}"] = Work(run, base=name, target=target)
        works[f"quantized, bf16, to {name}"] = Work(base=name, target=1, parts={"quantized, bf16": 1})
    return works


def with_tf32(run: Callable[[], None], on: bool) -> Callable[[], None]:
    """`run` with float32 products of a GPU in TF32, or not."""

    def both() -> None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
        run()

    return both


# -- the profile -----------------------------------------------------------------------------------------------------


def profiled(depth: int, batch: int, device: str, rounds: int) -> dict[str, float]:
    """Where a step with compiled rounding spends its time, by torch's profiler, in ms a step; means over `rounds`.

    "rounding" is all of A, E and G, "weights" the masters and the next quantized weight, "rest" the plain work.
    "rounding, by bytes" is the time that its reading and writing would take at the speed of a copy.
    """
    plain, quantized = Step(depth, batch, device), Step(depth, batch, device, quantized=True, fuse=True)
    for run in (plain, quantized):
        run()
    found = {"plain step": 1e3 * sum(timed(plain) for _ in range(rounds)) / rounds}
    counted: list[int] = []
    with _recorded(counted), profile(activities=[ProfilerActivity.CPU]) as profiler:
        found["quantized step"] = 1e3 * sum(timed(quantized) for _ in range(rounds)) / rounds
    spent = {event.key: event.cpu_time_total / 1e3 / rounds for event in profiler.key_averages()}
    found["rounding"], found["weights"] = spent["rounding"], spent["weights"]
    stepping = sum(time for key, time in spent.items() if key.startswith("Optimizer.step"))
    found["optimizer"] = stepping - found["weights"]  # which its hooks do
    found["rest"] = found["quantized step"] - found["rounding"] - stepping
    elements = sum(counted) // rounds
    found["rounding, by bytes"] = 8 * elements * _copy_milliseconds(device)
    found["rounded elements"] = elements
    return found


@contextmanager
def _recorded(counted: list[int]) -> Iterator[None]:
    """Within, quantizers and weights appear in profiles as "rounding" and "weights"; `counted` gets tensors' sizes."""
    places: list[tuple[type, str, str]] = [
        (Quantizer, "__call__", "rounding"), (QuantizedWeights, "swap_in", "weights"),
        (QuantizedWeights, "update", "weights"),
    ]  # fmt: skip
    inside: list[str] = []
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in places]

    def recorded(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if part == "rounding":
                counted.append(args[1].numel())
            if part in inside:  # the second of two quantizers is called by the first
                return function(*args, **kwargs)
            inside.append(part)
            with record_function(part):
                result = function(*args, **kwargs)
            inside.remove(part)
            return result

        return run

    for owner, name, part in places:
        setattr(owner, name, recorded(getattr(owner, name), part))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def _copy_milliseconds(device: str) -> float:
    """A byte's share of a copy of 2**24 elements, reading and writing."""
    x = torch.randn(2**24, device=device)
    out = torch.empty_like(x)
    return 1e3 * quartiles([timed(lambda: out.copy_(x)) for _ in range(9)])[1] / (8 * x.numel())
