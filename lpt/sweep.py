"""`-m`: Hydra's own sweeper, except that a job that cannot be composed does not keep the others from running."""

from __future__ import annotations

import sys
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.plugins import Plugins
from hydra.errors import HydraException



class Failed(Exception):
    """Some jobs of a sweep failed and have said why; `code` is the exit code of the whole."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Sweeper(BasicSweeper):
    """Runs every job of the sweep that can run; jobs return exit codes, and the sweep fails at the end if one did.

    Raises:
        Failed: with 1 if any job failed by our fault, else with 2.
    """

    refused = 0

    # Hydra takes sweepers from this package only, and knows a registered class by its module's name.
    __module__ = "hydra_plugins.lpt"

    def validate_batch_is_legal(self, batch: Any) -> None:
        assert self.hydra_context is not None and self.config is not None
        for overrides in list(batch):
            try:
                self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
            except HydraException as error:
                print(f"error: {' '.join(overrides)}: {error}", file=sys.stderr)
                batch.remove(overrides)
                self.refused += 1

    def sweep(self, arguments: list[str]) -> Any:
        results = super().sweep(arguments)
        codes = [job.return_value for batch in results for job in batch] + [2] * self.refused
        if failed := [code for code in codes if code]:
            print(f"{len(failed)} of {len(codes)} jobs failed", file=sys.stderr)
            raise Failed(min(failed))
        return results


def register() -> None:
    """Make `hydra.sweeper._target_: hydra_plugins.lpt.Sweeper` known."""
    Plugins.instance().register(Sweeper)
