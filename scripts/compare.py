"""Compare runs: `python scripts/compare.py outputs/RUN ... [by=weights]`.

    python scripts/compare.py outputs                          every run in a folder, or in a sweep's
    python scripts/compare.py 'outputs/resnet8-*' by=weights   a pattern; weights compared, all other settings equal
    python scripts/compare.py outputs by=lr baseline=0.1       against a value that you name
    python scripts/compare.py outputs data=digits 'seed<3'     only those runs

Runs that differ in nothing but their seeds are one row, named by what differs. Differences are paired over seeds, with
a 95 % interval of Student's t. Further: metric=val/loss (any figure of summary.json), out=DIR.
Leaves outputs/compare-.../ with the table (.md, .csv, .tex), curves (.png, .svg) and a page (index.html).
Exit code: 0 done, 2 a mistake in the command.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing, too

from lpt.errors import UserError
from lpt.runs.terminal import show_anything


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    from lpt.runs.comparing import compared

    show_anything()
    try:
        compared(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}: give a folder that can be written (out=DIR)", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
