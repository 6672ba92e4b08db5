"""The figures that a run ends with: from its metrics.csv to summary.json and the table on the screen."""

from __future__ import annotations

import math
import platform
import subprocess
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..callbacks.rows import column, read_metrics

# Indicators fluctuate from window to window, so their figure is the mean over the last third of the run.
INDICATORS = (
    "flip_frequency", "flip_frequency/level", "flip_frequency/regrid", "angle/flow", "angle/gradient", "saturation",
    "underflow",
)  # fmt: skip
# What a task's best checkpoint is chosen by, and what is better.
QUALITY = {"val/accuracy": max, "val/perplexity": min, "val/bleu": max, "val/map50": max}
KEPT = ("config.yaml", "metrics.csv", "summary.json", "checkpoints/", "wandb/")  # of a run's folder, in its table
PACKAGES = ("torch", "pytorch-lightning", "hydra-core", "numpy")


def figures(metrics: Path, steps: int) -> dict[str, float]:
    """`val/*`, `train/*`, `test/*` as last logged, the best in `best/*`, the indicators' means over the last third."""
    rows = read_metrics(metrics)
    names = {name for row in rows for name, value in row.items() if value}
    found: dict[str, float] = {}
    for name in sorted(names):
        if name.startswith(("train/", "val/", "test/")):
            found[name] = column(rows, name)[-1]
    for name in names & QUALITY.keys():
        found[f"best/{name}"] = QUALITY[name](column(rows, name))
    for name in INDICATORS:
        if values := [v for v in column(rows, name, after=steps * 2 / 3) or column(rows, name) if not math.isnan(v)]:
            found[name] = sum(values) / len(values)
    return found


def table(summary: Mapping[str, Any], folder: Path) -> str:
    """A short table for people."""

    def number(name: str, form: str, times: float = 1) -> str:
        value = summary.get(name)
        return format(value * times, form) if isinstance(value, (int, float)) else "-"

    groups = [f"{group} {summary[group]}, " for group in ("products", "remedy", "recipe") if summary.get(group)]
    epochs = "epoch" if summary.get("epochs") == 1 else "epochs"
    kept = [name for name in KEPT if (folder / name).exists()]  # not every logger leaves files
    rows = [
        ("run", f"{summary.get('model')} on {summary.get('data')}, format {summary.get('format')}, "
                f"weights {summary.get('weights')}, {''.join(groups)}seed {summary.get('seed')}"),
        ("steps", f"{summary.get('steps')} in {summary.get('epochs')} {epochs}, {number('wall_seconds', '.0f')} s"),
        ("accuracy", f"{number('val/accuracy', '.2%')} (validation; best {number('best/val/accuracy', '.2%')})"),
        ("top-5 accuracy", f"{number('val/accuracy_top5', '.2%')} (validation)"),
        ("perplexity", f"{number('val/perplexity', '.2f')} (validation; best {number('best/val/perplexity', '.2f')})"),
        ("baseline", f"{number('unigram_perplexity', '.2f')} (perplexity of the frequencies of the words alone)"),
        ("BLEU", f"{number('val/bleu', '.2f')} (validation; best {number('best/val/bleu', '.2f')}; "
                 f"{summary.get('bleu_signature')})"),
        ("mAP at IoU 0.5", f"{number('val/map50', '.4f')} (validation; best {number('best/val/map50', '.4f')})"),
        ("test part", ", ".join(f"{name.removeprefix('test/')} {value:.4g}" for name, value in summary.items()
                                if name.startswith("test/") and value is not None) or "-  "),
        ("loss", f"{number('val/loss', '.4f')} (validation), {number('train/loss', '.4f')} (training)"),
        ("flip frequency", f"{number('flip_frequency', '.2g', 100)} % of the weights a step (last third of the run)"),
        ("mean angle", f"{number('angle/flow', '.2f')} degrees from A and E, "
                       f"{number('angle/gradient', '.2f')} with G (last third)"),
        ("everything", f"{folder}/" + (f" ({', '.join(kept)})" if kept else "")),
    ]  # fmt: skip
    rows = [row for row in rows if "- " not in row[1][:2]]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in rows)


def git_commit() -> str | None:
    """The commit of the code, "+" and a hash of what differs from it, new files included; None if there is none."""
    here = Path(__file__).parents[2]

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changes = git("diff", "HEAD", "--", ":/*.py", ":/*.yaml")
        new = git("ls-files", "--others", "--exclude-standard", "-z", "--", ":/*.py", ":/*.yaml").split("\0")
        changes += "".join(f"{name}\n{(here / name).read_text(errors='replace')}" for name in new if name)
        return git("rev-parse", "HEAD") + (f"+{zlib.crc32(changes.encode()):08x}" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def versions() -> str:
    return ", ".join([f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in PACKAGES)])


def hardware() -> str:
    import torch

    cpu = f"{platform.machine()}, {torch.get_num_threads()} CPU threads"
    if not torch.cuda.is_available():
        return cpu
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}, {cpu}"
