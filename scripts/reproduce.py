"""Experiments that test the paper's claims.

    python scripts/reproduce.py list
    python scripts/reproduce.py NAME [key=value ...]     keys of train.py's configuration, and those NAME tells of

What was trained already is not trained again: a command that was stopped goes on where it was.
Exit code: 0 done, 2 a mistake in the command, 1 a failure, 75 stopped and resumable.
"""

import importlib
import os
import pkgutil
import signal
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without installing, too

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

import lpt.reproductions
from lpt.errors import UserError
from lpt.messages import readable

NAMES = [module.name for module in pkgutil.iter_modules(lpt.reproductions.__path__) if module.name[0] != "_"]


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    name, *overrides = arguments
    if name == "list":
        for known in NAMES:
            text = importlib.import_module(f"lpt.reproductions.{known}").__doc__ or ""
            print(f"{known:<14} {text.splitlines()[0]}")
        return 0
    if name not in NAMES:
        print(f"error: {name!r} is not one of list, {', '.join(NAMES)}", file=sys.stderr)
        return 2
    from lpt.callbacks.checkpoints import Stopped

    def stop(*_: object) -> None:
        raise Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        importlib.import_module(f"lpt.reproductions.{name}").run(overrides)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {readable(error)}", file=sys.stderr)
        return 2
    except Stopped:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 75
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
