"""What number formats cost in hardware, by synthesis: `python scripts/synthesize.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing, too

import scripts  # noqa: F401  (how threads wait: before torch)

# isort: split

from lpt.runs.run import main
from lpt.runs.synthesizing import listed, synthesize

if __name__ == "__main__":
    sys.argv[1:] = listed(sys.argv[1:])
    sys.exit(main("synthesize", synthesize))
