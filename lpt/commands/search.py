"""Rank number formats for a trained model without training in them: `python scripts/search_formats.py --help`."""

import sys

from ..runs import run
from ..runs.searching import rank


def main() -> int:
    return run.main("search", rank)


if __name__ == "__main__":
    sys.exit(main())
