"""What short commands do alike: show their help, tell mistakes in a line, print figures under each other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError
from ..runs.extras import absent
from ..runs.messages import readable
from ..runs.terminal import say, show_anything


def answered(help: str, work: Callable[[list[str]], None], arguments: list[str] | None, needs: bool = True) -> int:
    """Do `work` with a command's arguments, those of the process if None; returns the exit code.

    Args:
        needs: whether there must be arguments.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    asks = arguments[:1] in (["-h"], ["--help"])
    if asks or (needs and not arguments):
        say(help)
        return 0 if asks else 2
    show_anything()
    try:
        work(arguments)
    except (UserError, HydraException, OmegaConfBaseException, ModuleNotFoundError) as error:
        print(f"error: {absent(error) or readable(error)}", file=sys.stderr)
        return 2
    return 0


def listed(figures: Mapping[str, float]) -> str:
    """A line for each figure."""
    width = max(map(len, figures), default=0)
    return "\n".join(f"{name:<{width}}  {value:.6g}" for name, value in figures.items())
