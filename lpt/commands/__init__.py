"""The commands: what `scripts/*.py` and, once installed, `lpt-train`, `lpt-search`, `lpt-reproduce`, `lpt-evaluate`,
`lpt-export`, `lpt-compare`, `lpt-runs` do.

A file a command, each with a `main()` that returns the exit code. Open `evaluate` first: it is the shortest that does
something by itself; `train` and `search` only name what `lpt.runs` does.

Importing this folder says how threads wait, which has to be said before torch is loaded. Small networks share the cores
with whatever else runs. Threads that wait by spinning for long then cost up to five times the time; those that never
spin have to be woken for each operation, and a small network's step takes half as long again.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
