"""What simulated low precision costs, as ratios to a copy and to a plain FP32 step, all measured in one run.

    python scripts/benchmark.py                          # rounding, peers that are installed, the training step
    python scripts/benchmark.py --only rounding --elements 16777216 --rounds 15

Every figure is the median over `--rounds` rounds in which all candidates take turns, with the quartiles beside it.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported, as train.py does

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lpt
from lpt.formats import Table, get
from lpt.formats.fused import fused, why_not_fused
from lpt.heap import keep_freed_memory
from lpt.models import ResNet
from lpt.summary import hardware, versions
from lpt.weights import hysteresis

Work = Callable[[], object]
ROUNDED = ("fp134", "fp143", "fp152", "int8", "log4", [7, 5, 4, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 2, 1], "posit8_1")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("rounding", "peers", "step"), action="append", help="part to measure")
    parser.add_argument("--elements", type=int, default=2**24, help="float32 elements that are rounded")
    parser.add_argument("--rounds", type=int, default=9, help="rounds; the median is taken over them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128, help="images a training step")
    parser.add_argument("--depth", type=int, default=20, help="of the ResNet: 8, 14, 20, 32, 44 or 56")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmark.json"))
    args = parser.parse_args()
    if min(args.elements, args.rounds, args.threads, args.batch) < 1:
        parser.error("--elements, --rounds, --threads and --batch are whole numbers from 1 upward")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA GPU here; use --device cpu")
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    if why_not := why_not_fused():
        print(f"torch.compile does not work here, so 'fused' is eager: {why_not}", file=sys.stderr)
    parts = {"rounding": rounding, "peers": peers, "step": step}
    results: dict[str, Any] = {
        "hardware": hardware(), "versions": versions(), "threads": args.threads, "rounds": args.rounds,
        "elements": args.elements, "device": args.device,
    }  # fmt: skip
    for name in args.only or parts:
        results[name] = measured(name, parts[name](args), args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"\n{args.out}")
    return 0


def measured(title: str, works: dict[str, Work], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median and quartiles of each work's time, in milliseconds and as a ratio to the first's; printed as a table."""
    times: dict[str, list[float]] = {name: [] for name in works}
    first: dict[str, float] = {}
    for name, work in works.items():
        first[name] = timed(work, args.device)
        timed(work, args.device)
    for _ in range(args.rounds):
        for name, work in works.items():
            times[name].append(timed(work, args.device))
    base = next(iter(works))
    print(f"\n{title}: ratios to {base}\n{'':44s}{'ratio':>8s}{'quartiles':>16s}{'ms':>10s}{'first, s':>10s}")
    table = {}
    for name, taken in times.items():
        ratios = sorted(t / b for t, b in zip(taken, times[base], strict=True))
        low, middle, high = (ratios[int(q * (len(ratios) - 1))] for q in (0.25, 0.5, 0.75))
        milliseconds = 1e3 * sorted(taken)[len(taken) // 2]
        table[name] = {"ratio": middle, "low": low, "high": high, "ms": milliseconds, "first_s": first[name]}
        print(f"{name:44s}{middle:8.2f}{f'{low:.2f} to {high:.2f}':>16s}{milliseconds:10.2f}{first[name]:10.1f}")
    return table


def timed(work: Work, device: str) -> float:
    """Seconds that `work` takes once."""
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def rounding(args: argparse.Namespace) -> dict[str, Work]:
    """Each rounding into a given output, fused; the first also into a new tensor, and eager."""
    x = torch.randn(args.elements, device=args.device, generator=torch.Generator(args.device).manual_seed(0))
    out, scale = torch.empty_like(x), get("fp134").scale_of(x)
    works: dict[str, Work] = {"copy": lambda: out.copy_(x)}

    def into(name: str, work: Callable[..., Tensor], *rest: Any) -> None:
        run = fused(lambda out, *given: out.copy_(work(*given)))
        works[name] = lambda: run(out, *rest)

    for spec in ROUNDED:
        fmt = get(spec)
        into(f"{fmt.name}", functools.partial(_round, fmt), x, scale)
    table = Table("16 values", [i**3 / 343 for i in range(-7, 9)])
    into("table of 16 values", functools.partial(_round, table), x, scale)
    fp134 = get("fp134")
    into("fp134, scale found and applied", lambda x: fp134.round(x, fp134.scale_of(x)), x)
    into("fp134, stochastic", lambda x, scale, key: fp134.round(x, scale, key), x, scale, torch.tensor(1))
    side = int(args.elements**0.5)
    master = x[: side * side].view(side, side)
    for name in ("log4", "int4", "int8"):
        fmt = get(name)
        per_channel = fmt.scale_of(master, 0)
        previous = fmt.round(master, per_channel)
        moved = master * 1.01
        update = fused(lambda m, q, s, fmt=fmt: q.copy_(hysteresis(m, q, fmt, s)))
        works[f"hysteresis {name}"] = functools.partial(update, moved, previous, per_channel)
    new = fused(lambda x, scale: fp134.round(x, scale))
    works["fp134 into a new tensor"] = lambda: new(x, scale)
    works["fp134 eager"] = lambda: fp134.round(x, scale)
    return works


def _round(fmt: lpt.formats.Format, x: Tensor, scale: Tensor) -> Tensor:
    return fmt.round(x, scale)


def peers(args: argparse.Namespace) -> dict[str, Work]:
    """The same work by other libraries, those that are installed; the nearest format that each of them has."""
    x = torch.randn(args.elements, generator=torch.Generator().manual_seed(0))
    out = torch.empty_like(x)
    works: dict[str, Work] = {"copy": lambda: out.copy_(x)}
    fp134, scale = get("fp134"), torch.tensor(4, dtype=torch.int32)
    run = fused(lambda out, x, scale: out.copy_(fp134.round(x, scale)))
    works["lpt fp134"] = lambda: run(out, x, scale)
    works["torch.fake_quantize, int8"] = lambda: torch.fake_quantize_per_tensor_affine(x, 2.0**-4, 0, -127, 127)
    for build in (_qtorch, _gfloat, _ml_dtypes):
        try:
            works |= build(x)
        except ImportError as error:
            print(f"not installed, left out: {error.name}", file=sys.stderr)
    return works


def _qtorch(x: Tensor) -> dict[str, Work]:
    from qtorch.quant import float_quantize

    return {f"qtorch {_version('qtorch')} e3m4": lambda: float_quantize(x, 3, 4, "nearest")}


def _gfloat(x: Tensor) -> dict[str, Work]:
    from gfloat import RoundMode, round_ndarray
    from gfloat.formats import format_info_ocp_e4m3

    values = x.numpy()
    mode = RoundMode.TiesToEven
    return {
        f"gfloat {_version('gfloat')} e4m3, numpy": lambda: round_ndarray(format_info_ocp_e4m3, values, mode, sat=True)
    }


def _ml_dtypes(x: Tensor) -> dict[str, Work]:
    import ml_dtypes
    import numpy as np

    values = x.numpy()
    there = ml_dtypes.float8_e3m4
    return {f"ml_dtypes {_version('ml_dtypes')} e3m4": lambda: values.astype(there).astype(np.float32)}


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def step(args: argparse.Namespace) -> dict[str, Work]:
    """A training step of a ResNet on CIFAR's shapes: plain FP32, then quantized, for each use of torch.compile."""
    return {
        "fp32 eager": training(args),
        "fp134 + log4_hyst eager": training(args, quantized=True),
        "fp134 + log4_hyst, compile=rounding": training(args, quantized=True, fuse=True),
        "fp32, compile=true": training(args, compile=True),
        "fp134 + log4_hyst, compile=true": training(args, quantized=True, fuse=True, compile=True),
    }


def training(
    args: argparse.Namespace, quantized: bool = False, fuse: bool = False, compile: bool = False
) -> Callable[[], None]:
    """One step of a network of its own, ready to be called."""
    torch.manual_seed(0)
    model = ResNet(args.depth, classes=10, in_channels=3).to(args.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    flow = None
    if quantized:
        flow = lpt.attach_(model, lpt.DataFlow())
        flow.mode.fused = fuse
        lpt.attach_weights_(model, optimizer, "log4_hyst", fused=fuse)
    x = torch.randn(args.batch, 3, 32, 32, device=args.device)
    y = torch.randint(10, (args.batch,), device=args.device)

    def run() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        if flow:
            flow.step()
        optimizer.step()

    run()  # starts the scales
    if compile:
        model.compile()
    return run


if __name__ == "__main__":
    sys.exit(main())
