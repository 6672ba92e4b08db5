"""Many short runs of one job in one process, each done only once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from ..callbacks.metrics import Diverged
from ..experiment import Experiment
from ..messages import CONF
from ..run import train

CHOICES = {"model": "resnet8", "data": "digits", "weights": "fp32"}
SHORT = (
    "weights=fp32", "indicators=none", "logger.mode=disabled", "progress=false", "resume=true", "trainer.log_every=25",
)  # fmt: skip


def composed(format: str, seed: int, overrides: Sequence[str]) -> DictConfig:
    """The configuration of one run."""
    given = ["format=custom", f"format.value='{format}'", f"seed={seed}", *SHORT, *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", given)


def trained(format: str, seed: int, overrides: Sequence[str], place: str = "") -> tuple[Path, dict[str, Any]]:
    """The folder and summary of the run with this data flow and full-precision weights; a finished one is only read.

    A run that ended in nan or infinity keeps its status, "diverged".
    """
    cfg = composed(format, seed, overrides)
    folder = Experiment(cfg, CHOICES).folder
    if folder.summary().get("status") not in ("finished", "diverged"):
        print(f"{place}training in {format}, seed {seed}", file=sys.stderr, flush=True)
        try:
            train(cfg, CHOICES)
        except Diverged as error:
            print(f"{format}, seed {seed}: {error}", file=sys.stderr)
    return folder.path, folder.summary()
