"""Many short runs of the main job in one process, each finished only once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir

from ..messages import CONF
from ..run import train

CHOICES = {"model": "resnet8", "data": "digits", "weights": "fp32"}
SHORT = (
    "weights=fp32", "indicators=none", "logger.mode=disabled", "progress=false", "resume=true", "trainer.log_every=25",
)  # fmt: skip


def summaries(formats: Sequence[str], seeds: int, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """The summaries of one run for each format and seed, in full-precision weights; finished ones are read, not run.

    A run that ended in nan or infinity counts, without its figures.
    """
    from ..callbacks.metrics import Diverged
    from ..experiment import Experiment

    found = []
    for seed in range(seeds):
        for format in formats:
            given = ["format=custom", f"format.value='{format}'", f"seed={seed}", *SHORT, *overrides]
            with initialize_config_dir(str(CONF), version_base="1.3"):
                cfg = compose("config", given)
            folder = Experiment(cfg, CHOICES).folder
            summary = folder.summary()
            if summary.get("status") not in ("finished", "diverged"):
                print(f"[{len(found) + 1}/{len(formats) * seeds}] {format}, seed {seed}", file=sys.stderr, flush=True)
                try:
                    summary = train(cfg, CHOICES)
                except Diverged:
                    summary = folder.summary()
            found.append(summary)
    return found
