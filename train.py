"""Train a network in low precision: `python train.py format=fp134 weights=log4_hyst`; `--help` lists every choice."""

import os
import sys

# Small networks share the cores with whatever else runs. Threads that wait by spinning for long then cost up to five
# times the time; those that never spin have to be woken for each operation, and a small network's step takes half as
# long again. To be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from lpt.run import main

if __name__ == "__main__":
    sys.exit(main())
