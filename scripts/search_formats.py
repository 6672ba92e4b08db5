"""Rank number formats for a trained model without training in them: `python scripts/search_formats.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing, too

import scripts  # noqa: F401  (how threads wait: before torch)

# isort: split

from lpt.runs.run import main
from lpt.runs.searching import rank

if __name__ == "__main__":
    sys.exit(main("search", rank))
