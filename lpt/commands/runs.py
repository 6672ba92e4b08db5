"""List runs with what differs between them: `python scripts/runs.py [outputs ...] [where optimizer.lr=0.1 ...]`.

A condition is KEY=VALUE, or with != < > <= >=; KEY is any setting (its end will do: lr=0.1) or any figure of a run's
summary.json (status=failed, 'val/accuracy>0.9').
Exit code: 0 done, 2 a mistake in the command.
"""

from ..runs.terminal import say
from .answering import answered


def main(arguments: list[str] | None = None) -> int:
    return answered(__doc__ or "", _list, arguments, needs=False)


def _list(arguments: list[str]) -> None:
    from ..runs.comparing import listed

    say(listed(arguments))
