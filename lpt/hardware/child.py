"""What runs in a process of its own, so that a crash of the synthesizer takes nothing with it: `child.py LOG PASS...`.

Started by `yosys`, which holds the other end of standard input; it imports nothing of lpt.
"""

import os
import signal
import sys


def end_with_parent() -> None:
    """Let a process of its own end this one's group (ABC, too) when standard input closes, as it does at any end of
    the parent, SIGKILL included. A thread would not do: a pass of Yosys may hold Python's lock. Call it once, as the
    leader of a process group, before there are threads.
    """
    if os.fork():
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):  # whoever reads our output does not wait for this process
        os.dup2(nothing, number)
    while os.read(0, 1024):
        pass
    os.killpg(0, signal.SIGKILL)


def main(log: str, passes: list[str]) -> None:
    end_with_parent()
    from pyosys import libyosys

    design = libyosys.Design()
    for line in passes:
        libyosys.run_pass(f"tee -q -o {log} {line}", design)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
