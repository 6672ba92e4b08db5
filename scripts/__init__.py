"""How threads wait; imported before torch by every command.

Small networks share the cores with whatever else runs. Threads that wait by spinning for long then cost up to five
times the time; those that never spin have to be woken for each operation, and a small network's step takes half as
long again.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
