"""See `Forker` in running.py. Reads a JSON object a line: {"argv", "log"} -> pid, {"wait": pid} -> exit code."""

import json
import os
import sys

import torch

import lpt.runs.experiment  # noqa: F401  (imported once, here, for all runs)
from lpt.runs.run import main


def child(argv: list[str], log: str) -> None:
    out = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = ["train.py", *argv]
    code = 1
    try:
        code = main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


torch.set_num_threads(1)
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
        continue
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        child(asked["argv"], asked["log"])
    print(pid, flush=True)
