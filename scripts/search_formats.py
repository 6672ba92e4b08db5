"""Rank number formats for a trained model without training in them: `python scripts/search_formats.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing, too

from lpt.commands.search import main

if __name__ == "__main__":
    sys.exit(main())
