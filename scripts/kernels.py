"""Compiled roundings, shared by all runs: `python scripts/kernels.py` says where they are, with `clear` removes them.

They are made again when they are missed. Exit code: 0 done, 2 a mistake in the command.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing, too

from lpt.formats.shelf import Shelf
from lpt.runs.terminal import say


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["clear"]):
        say(__doc__)
        return 0 if arguments in (["-h"], ["--help"]) else 2
    shelf = Shelf()
    count, size = shelf.size()
    if arguments:
        shelf.clear()
    print(f"{shelf.folder}: {count} compiled roundings, {size / 1e6:.1f} MB{', removed' if arguments else ''}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
