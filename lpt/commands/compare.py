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

from .answering import answered


def main(arguments: list[str] | None = None) -> int:
    return answered(__doc__ or "", _compare, arguments)


def _compare(arguments: list[str]) -> None:
    from ..runs.comparing import compared

    compared(arguments)
