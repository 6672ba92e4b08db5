"""Train a network in low precision: `python train.py format=fp134 weights=log4_hyst`; `--help` lists every choice."""

import sys

from lpt.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
