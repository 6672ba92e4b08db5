"""What memory=packed saves, and what precision=bf16 changes.

    python scripts/execution.py                          # some two minutes
    python scripts/execution.py --only memory --batch 32 --size 224
    python scripts/execution.py --only growth --steps 10000

memory   ResNet-18: bytes that the graph keeps for the backward pass, the peak (on a GPU the allocator's, else the
         process's, Linux), milliseconds
bf16     ResNet-18: the shares of outputs and of weight gradients that differ from float32 execution, of one step
growth   ResNet-8 of width 4: the process's memory after a tenth of the steps, and after all of them

Each variant of `memory` runs in a process of its own. The figures go to a JSON file, to which `--only` adds parts.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import scripts  # noqa: F401  (how threads wait: before torch)

# isort: split

import torch
from torch import Tensor, nn

import lpt
from lpt.benchmarks.arguments import check_machine, earlier
from lpt.benchmarks.measuring import quartiles, timed
from lpt.benchmarks.stepping import Stepping
from lpt.execution.bf16 import ExactProducts
from lpt.execution.heap import LARGE_PAGES, give_back, keep_freed_memory
from lpt.execution.packing import Packing
from lpt.places import place
from lpt.runs.terminal import show_anything

STOCK = "stock torch"
VARIANTS = (STOCK, "memory=plain", "memory=packed")


class Step(Stepping):
    """A training step of ResNet-18 in one of VARIANTS; quantized: FP134, log4_hyst, compile=rounding."""

    def __init__(self, variant: str, batch: int, size: int, device: str) -> None:
        torch.manual_seed(0)
        if variant == STOCK:
            from torchvision.models import resnet18

            model: nn.Module = resnet18(num_classes=1000)
        else:
            model = lpt.models.torchvision("resnet18", classes=1000)
        super().__init__(model.to(device), rate=0.01)
        self.packing = None
        if variant != STOCK:
            flow = self.quantize(fuse=True)
            self.packing = Packing(flow) if variant == "memory=packed" else None
        self.x, self.y = torch.randn(batch, 3, size, size).to(device), torch.randint(1000, (batch,)).to(device)

    def kept(self) -> int:
        """Bytes that the graph of one forward pass keeps, parameters apart, each memory once."""
        if self.packing:
            self.model(self.x)
            return self.packing.saved_bytes
        own = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = self.model(self.x)
        del out
        return sum(seen.values())


def one(variant: str, args: argparse.Namespace) -> dict[str, float]:
    """The figures of one variant, in this process, whose heap train.py's settings rule, if not the C library's own."""
    if variant != STOCK:
        keep_freed_memory()
    step = Step(variant, args.batch, args.size, args.device)
    step()  # compiles, and starts the scales
    step()
    before = _forget_the_peak(args.device)
    step()
    peak = _peak(args.device) - before
    middle = 1e3 * quartiles([timed(step) for _ in range(args.rounds)])[1]
    return {"kept_mb": step.kept() / 1e6, "peak_mb": peak / 1e6, "ms": middle}


def _peak(device: str) -> int:
    """The most bytes held since `_forget_the_peak`."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) * 1024


def _forget_the_peak(device: str) -> int:
    """Give freed memory back to the system and start the peak anew; returns the bytes held now."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    give_back()
    Path("/proc/self/clear_refs").write_text("5")
    return _resident()


def memory(args: argparse.Namespace) -> dict[str, Any]:
    print(f"\nResNet-18, {args.batch} images of {args.size} pixels, {args.device}: what the graph keeps, peak, a step")
    found: dict[str, Any] = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, "--variant", variant, "--batch", args.batch, "--size", args.size]
        command += ["--rounds", args.rounds, "--threads", args.threads, "--device", args.device]
        own_pages = {} if variant == STOCK else LARGE_PAGES  # as in train.py, before the first tensor is made
        done = subprocess.run(
            [str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True, env=os.environ | own_pages
        )
        found[variant] = own = json.loads(done.stdout.splitlines()[-1])
        own |= {f"{key}_ratio": value / found[STOCK][key] for key, value in list(own.items())}
        cells = [f"{own[key]:8.0f} {unit} ({own[key + '_ratio']:.2f})"
                 for key, unit in (("kept_mb", "MB"), ("peak_mb", "MB"), ("ms", "ms"))]  # fmt: skip
        print(f"{variant:38s}", *cells, flush=True)
    return found


def bf16(args: argparse.Namespace) -> dict[str, Any]:
    """One step in both precisions from the same state: shares of elements that are not the same."""
    seen: list[dict[str, Tensor]] = []
    for low in (False, True):
        step = Step("memory=plain", args.batch, args.size, args.device)
        assert step.flow is not None
        step()  # starts the scales, in float32
        if low:
            ExactProducts(step.flow)
        outputs: dict[str, Tensor] = {}
        for name, module in step.model.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(keeping(f"A {name}", outputs))
        step.optimizer.zero_grad()
        with torch.autocast(args.device, torch.bfloat16, enabled=low):
            loss = step.loss()
        loss.backward()
        step.flow.step()
        named = step.model.named_parameters()
        seen.append(outputs | {f"G {n}": p.grad.clone() for n, p in named if p.grad is not None and p.ndim > 1})
    exact, rounded = seen
    shares = {name: (exact[name] != rounded[name]).float().mean().item() for name in exact}
    found = {"first product's output": shares["A conv1"], "second product's output": shares["A layer1.0.conv1"]}
    for kind, what in (("A", "outputs of products"), ("G", "weight gradients, rounded")):
        own = [(exact[n], rounded[n]) for n in exact if n[0] == kind]
        found[what] = sum((a != b).sum().item() for a, b in own) / sum(a.numel() for a, _ in own)
    g, h = (torch.cat([t.flatten() for n, t in s.items() if n[0] == "G"]) for s in (exact, rounded))
    found["angle between the gradients, degrees"] = float(lpt.indicators.angle([h], [g]))
    print(f"\nResNet-18, {args.batch} images of {args.size} pixels: shares that differ between bf16 and float32")
    for what, value in found.items():
        print(f"{what:40s}{value:9.4f}", flush=True)
    return found


def keeping(name: str, outputs: dict[str, Tensor]) -> Callable[..., None]:
    """A forward hook that keeps a module's output, behind its Edge."""

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        outputs[name] = output.detach().float()

    return hook


def growth(args: argparse.Namespace) -> dict[str, Any]:
    """The process's memory over many steps."""
    torch.manual_seed(0)
    step = Stepping(lpt.models.ResNet(8, classes=10, in_channels=1, width=4), rate=0.01)
    step.quantize(fuse=False)
    step.x, step.y = torch.randn(8, 1, 8, 8), torch.randint(10, (8,))
    found: dict[str, Any] = {}
    for count in range(1, args.steps + 1):
        step()
        if count in (max(1, args.steps // 10), args.steps):
            found[f"MB after {count} steps"] = _resident() / 1e6
    print("\nMemory over steps")
    for what, value in found.items():
        print(f"{what:40s}{value:9.1f}", flush=True)
    return found


def _resident() -> int:
    """Bytes of this process in memory now; Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


PARTS = {"memory": memory, "bf16": bf16, "growth": growth}


def main() -> int:
    show_anything()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(PARTS), action="append", help="part to measure")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=16, help="images a step")
    parser.add_argument("--size", type=int, default=128, help="pixels of an image's side")
    parser.add_argument("--rounds", type=int, default=5, help="steps that are timed; the median is taken")
    parser.add_argument("--steps", type=int, default=10_000, help="of `growth`")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of memory and bf16")
    parser.add_argument("--out", type=place, default=Path("outputs/execution.json"))
    args = parser.parse_args()
    if min(args.batch, args.rounds, args.steps, args.threads) < 1 or args.size < 32:
        parser.error("--batch, --rounds, --steps and --threads are whole numbers from 1 upward, --size from 32")
    check_machine(parser, args.threads, args.device)
    torch.set_num_threads(args.threads)
    if args.variant:
        print(json.dumps(one(args.variant, args)))
        return 0
    from lpt.runs.summary import git_commit, hardware, versions  # Lightning's import is long

    found = earlier(parser, args.out) if args.only else {}
    found |= {"hardware": hardware(), "versions": versions(), "commit": git_commit()}
    print("\n".join(f"{key}: {found[key]}" for key in ("hardware", "versions", "commit")))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name in args.only or PARTS:
        found[name] = PARTS[name](args)
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
