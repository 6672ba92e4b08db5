"""What runs in a process of its own, so that a crash of the synthesizer takes nothing with it: `child.py LOG PASS...`.

Started by `yosys`; it imports nothing of lpt.
"""

import sys


def main(log: str, passes: list[str]) -> None:
    from pyosys import libyosys

    design = libyosys.Design()
    for line in passes:
        libyosys.run_pass(f"tee -q -o {log} {line}", design)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
