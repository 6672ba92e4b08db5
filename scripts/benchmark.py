"""What simulated low precision costs, as ratios to a copy and to a plain FP32 step, all measured in one run.

    python scripts/benchmark.py                          # everything, some 15 minutes on two cores
    python scripts/benchmark.py --only networks --only calls --only rounding --rounds 15
    python scripts/benchmark.py --device cuda --brief    # six minutes on a GPU; into outputs/brief

networks   steps of small networks, with goals       calls     what one rounding and one Edge cost
rounding   each rounding beside a copy               step      a training step beside a plain one
peers      other libraries at the same work          depths    the same over model sizes, batches over batch sizes
starting   imports, first steps, compilation         profile   where a step's time goes, and the bound by bytes
simulators whole steps by other libraries            products  a step whose products round by blocks
memory     what is kept for the backward pass        gpu       ResNet-18 on a GPU

Every ratio is the median over `--rounds` rounds in which all candidates take turns, with the quartiles beside it. The
figures go to a JSON file, to which `--only` adds parts, and into a chart beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import scripts  # noqa: F401  (how threads wait: before torch)

# isort: split

import torch

from lpt.benchmarks import blocks, brief, chart, networks, rounding, simulators, starting, training
from lpt.benchmarks.arguments import check_machine, earlier
from lpt.benchmarks.measuring import Rows, Work, measured, table
from lpt.errors import UserError
from lpt.execution.heap import keep_freed_memory
from lpt.formats.fused import why_not_fused
from lpt.models import ResNet
from lpt.places import place
from lpt.runs.terminal import show_anything

RATIOS: dict[str, tuple[str, Callable[[argparse.Namespace], dict[str, Work]]]] = {
    "networks": (
        "Steps of small networks, as they are by default: ratio to plain eager FP32",
        lambda args: networks.networks(args.small),
    ),
    "rounding": ("Rounding: ratio to a copy", lambda args: rounding.rounding(args.elements, args.device)),
    "peers": (
        "Other libraries at the same work: ratio to a copy",
        lambda args: rounding.peers(args.elements, args.device),
    ),
    "step": (
        "A training step: ratio to the plain step, compiled to compiled",
        lambda args: training.step(args.depth, args.batch, args.device),
    ),
    "simulators": (
        "A training step by other libraries: ratio to plain eager FP32",
        lambda args: simulators.simulators(args.depth, args.batch),
    ),
    "depths": (
        "A step with compile=rounding, by model: ratio to the plain eager step",
        lambda args: training.depths(args.batch, args.device),
    ),
    "batches": (
        "A step with compile=rounding, by batch: ratio to the plain eager step",
        lambda args: training.batches(args.depth, args.device),
    ),
    "products": (
        "A step with all six operands of products in blocks: ratio to the plain step, compiled to compiled",
        lambda args: blocks.steps(args.batch, args.device),
    ),
    "gpu": ("ResNet-18 on a GPU: ratio to the plain compiled step", lambda args: training.gpu(args.gpu_batch)),
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
OTHERS = ("calls", "profile", "starting", "memory")


def main() -> int:
    show_anything()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=(*RATIOS, *OTHERS), action="append", help="part to measure")
    parser.add_argument("--elements", type=int, default=2**24, help="float32 elements that are rounded")
    parser.add_argument("--rounds", type=int, default=9, help="rounds; the median is taken over them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128, help="images a training step")
    parser.add_argument("--gpu-batch", type=int, default=256, help="images a step of ResNet-18 on the GPU")
    parser.add_argument("--depth", type=int, default=20, help="of the ResNet: 8, 14, 20, 32, 44 or 56")
    parser.add_argument("--small", action="store_true", help="networks of a few examples: to see that all runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=place, default=Path("outputs/benchmark.json"))
    parser.add_argument(
        "--clock", choices=tuple(CLOCKS), default="wall", help="cpu: what this process computes, on a machine in use"
    )
    parser.add_argument("--brief", action="store_true", help="for a GPU: six minutes, into the folder of --out")
    args = parser.parse_args()
    if min(args.elements, args.rounds, args.threads, args.batch, args.gpu_batch) < 1:
        parser.error("--elements, --rounds, --threads and the batches are whole numbers from 1 upward")
    try:
        ResNet(args.depth, classes=10)
    except UserError as error:
        parser.error(str(error))
    check_machine(parser, args.threads, args.device)
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    if why_not := why_not_fused():
        print(f"torch.compile does not work here, so 'fused' is eager: {why_not}", file=sys.stderr)
    if args.brief:
        folder = args.out.parent / "brief"
        brief.brief(args.device, folder, args.small)
        print((folder / "brief.md").read_text(encoding="utf-8"), folder / "brief.json", folder / "brief.md", sep="\n")
        return 0
    results = earlier(parser, args.out) if args.only else {}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    from lpt.runs.summary import git_commit, hardware, versions  # Lightning's import is long

    results |= {"hardware": f"{processor()}, {hardware()}", "versions": versions(), "commit": git_commit()}
    results |= {key: vars(args)[key] for key in ("threads", "clock", "rounds", "elements", "device")}
    print("\n".join(f"{key}: {results[key]}" for key in ("hardware", "versions", "commit")))
    for name in args.only or (*RATIOS, *OTHERS):
        results[name] = ratios(name, args) if name in RATIOS else other(name, args)
        args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    drawn = {name: title for name, (title, _) in RATIOS.items() if results.get(name)}
    paths = chart.draw(results, drawn, args.out) if drawn else []
    print("", args.out, *paths, sep="\n")
    return 0


def ratios(name: str, args: argparse.Namespace) -> Rows:
    """A part of RATIOS, measured and printed; empty if it needs a GPU that is not there."""
    title, works = RATIOS[name]
    if name == "gpu" and not torch.cuda.is_available():
        print("\nResNet-18 on a GPU: not measured, torch finds no CUDA GPU here")
        return {}
    torch.compiler.reset()
    rows = measured(works(args), args.rounds, CLOCKS[args.clock])
    print(table(title, rows), flush=True)
    return rows


def other(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """A part of OTHERS, measured and printed."""
    if name == "memory":
        return memory(args)
    if name == "calls":
        found = networks.calls(args.rounds)
        print("\nOne call, microseconds, one thread")
        for part, value in found.items():
            print(f"{part:52s}{value:8.1f}")
        return found
    if name == "profile":
        found = training.profiled(args.depth, args.batch, args.device, args.rounds)
        print(f"\nResNet-{args.depth}, batch {args.batch}, compile=rounding: ms a step, by torch's profiler")
        whole = found["quantized step"]
        for part, value in found.items():
            share = f"{value / whole:8.1%}" if part != "rounded elements" else ""
            print(f"{part:44s}{value:14,.1f}{share}")
        return found
    print("\nBefore the first step, seconds")
    found = starting.starting(args.batch, args.threads)
    for part, value in found.items():
        print(f"{part:44s}{value:8.1f}")
    return found


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """scripts/execution.py measures it, each variant in a process of its own."""
    out = args.out.with_name("memory.json")
    script = Path(__file__).with_name("execution.py")
    command = [sys.executable, script, "--only", "memory", "--threads", str(args.threads), "--out", out]
    subprocess.run(command, check=True)
    return json.loads(out.read_text(encoding="utf-8"))["memory"]  # type: ignore[no-any-return]


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


if __name__ == "__main__":
    sys.exit(main())
