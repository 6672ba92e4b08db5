"""Rank number formats for a trained model without training in them: `python scripts/search_formats.py --help`."""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing, too

from lpt.run import main
from lpt.searching import rank

if __name__ == "__main__":
    sys.exit(main("search", rank))
