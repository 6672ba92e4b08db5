"""`-m`: Hydra's own sweeper, except that a job that cannot be composed does not keep the others from running.

Hydra finds sweepers in the package `hydra_plugins` only; this is the reason for the folder.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import open_dict, read_write

from lpt.errors import SweepFailed
from lpt.places import place
from lpt.runs.comparing import after_sweep
from lpt.runs.messages import quoted, readable
from lpt.runs.outcome import Score
from lpt.runs.terminal import say


@dataclass
class Settings(BasicSweeperConf):
    """hydra.sweeper: `jobs` names a file with a JSON list of overrides a line, jobs in place of combinations."""

    _target_: str = "hydra_plugins.lpt_sweeper.LptSweeper"
    jobs: str | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="lpt", node=Settings, provider="lpt")


class LptSweeper(BasicSweeper):
    """Runs every job of the sweep that can run, and prints their table; jobs return scores, or exit codes.

    Raises:
        SweepFailed: at the end, if a job failed: with 1 if it was by our fault, else with 2.
    """

    refused = 0

    def __init__(self, max_batch_size: int | None, params: Any = None, jobs: str | None = None) -> None:
        super().__init__(max_batch_size, params)
        self.jobs = jobs

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """As Hydra's; ~ in the folder of the sweep is the home folder, for its jobs, too."""
        folder = str(config.hydra.sweep.dir)
        if folder.startswith("~"):
            with open_dict(config), read_write(config):
                config.hydra.sweep.dir = str(place(folder, "paths.outputs"))
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(config.hydra.sweep.dir)}")
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def validate_batch_is_legal(self, batch: Any) -> None:
        assert self.hydra_context is not None and self.config is not None
        for overrides in list(batch):
            try:
                self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            except HydraException as error:
                print(f"error: {' '.join(overrides)}: {readable(error)}", file=sys.stderr)
                batch.remove(overrides)
                self.refused += 1

    def _listed(self, arguments: list[str]) -> Any:
        assert self.launcher is not None
        lines = Path(str(self.jobs)).read_text(encoding="utf-8").splitlines()
        batch = [[*json.loads(line), *arguments] for line in lines]
        self.validate_batch_is_legal(batch)
        return [self.launcher.launch(batch, initial_job_idx=0)]

    def sweep(self, arguments: list[str]) -> Any:
        results = self._listed(arguments) if self.jobs else super().sweep(arguments)
        # Hydra's record of the last sweep; each run has its own config.yaml.
        Path(self.config.hydra.sweep.dir, "multirun.yaml").unlink(missing_ok=True)  # type: ignore[union-attr]
        found = [job.return_value for batch in results for job in batch]
        codes = [0 if isinstance(one, Score) else one for one in found] + [2] * self.refused
        if text := after_sweep([one.folder for one in found if isinstance(one, Score)]):
            say(text)
        if failed := [code for code in codes if code]:
            print(f"{len(failed)} of {len(codes)} jobs failed", file=sys.stderr)
            raise SweepFailed(min(failed))
        return results
