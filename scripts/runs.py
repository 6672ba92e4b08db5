"""List runs with what differs between them: `python scripts/runs.py [outputs ...] [where optimizer.lr=0.1 ...]`.

A condition is KEY=VALUE, or with != < > <= >=; KEY is any setting (its end will do: lr=0.1) or any figure of a run's
summary.json (status=failed, 'val/accuracy>0.9').
Exit code: 0 done, 2 a mistake in the command.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing, too

from lpt.errors import UserError
from lpt.runs.terminal import say, show_anything


def main(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0
    from lpt.runs.comparing import listed

    show_anything()
    try:
        say(listed(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
