"""Train a network in low precision: `python train.py format=fp134 weights=log4_hyst`; `--help` lists every choice."""

import sys

from ..runs.run import main

__all__ = ["main"]


if __name__ == "__main__":
    sys.exit(main())
