"""What the scripts that measure ask of their arguments alike."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch


def check_machine(parser: argparse.ArgumentParser, threads: int, device: str) -> None:
    """End the script with one line if this machine has fewer cores than `threads`, or no such `device`."""
    if threads > (cores := os.cpu_count() or 1):
        parser.error(f"--threads {threads}: this machine has {cores} cores; give no more")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no CUDA GPU here; use --device cpu")


def earlier(parser: argparse.ArgumentParser, out: Path) -> dict[str, Any]:
    """The results in `out`, to which parts are added; none if there is no such file."""
    try:
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    except ValueError:
        parser.error(f"--out {out}: this file is not one that this script has written; give another")
    return found
