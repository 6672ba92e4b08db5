"""The runs that there are, with what differs: `python scripts/runs.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing, too

from lpt.commands.runs import main

if __name__ == "__main__":
    sys.exit(main())
