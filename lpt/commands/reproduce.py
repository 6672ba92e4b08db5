"""The paper's tables and figures, and questions of our own.

    python scripts/reproduce.py list                     what each name rebuilds, on what data, and what it costs
    python scripts/reproduce.py NAME size=smoke          smoke: minutes on a CPU; cpu: hours; small: one GPU; paper
    python scripts/reproduce.py all size=smoke
    python scripts/reproduce.py report                   outputs/report/index.html from what is there already
    python scripts/reproduce.py publish FOLDER TO        a table with its runs' small files, to be kept or sent
    python scripts/reproduce.py rebuild TO               that table again, from those files

Further: seeds=N, jobs=N (0: tables of what is there), threads=N, outputs=DIR, sweep=FILE (a W&B sweep file), run=I (one
run of the list), launcher=local|basic|joblib|submitit_local|submitit_slurm|ray, a part of the table (only.models=LSTM
only.arms=INT8), folders with data (ptb=DIR), and any key of train.py.
What is finished already is not done again: a command that was stopped or killed goes on where it was.
Exit code: 0 done, 2 a mistake in the command, 1 a failure, 75 stopped and resumable.
"""

import shlex
import sys

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError
from ..places import place
from ..runs.extras import absent
from ..runs.messages import readable
from ..runs.terminal import say, show_anything


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        say(__doc__)
        return 0 if arguments else 2
    name, *words = arguments
    from ..callbacks.signals import Stopped, on_stop, restore
    from ..reproductions import archive, command

    def stop(*_: object) -> None:
        raise Stopped

    show_anything()
    before = on_stop(stop)
    try:
        if name == "list":
            say(command.listed())
            return 0
        if name == "report":
            command.report(command.Asked(words).outputs)
            return 0
        if name in ("publish", "rebuild"):
            folders = [place(word) for word in words]
            takes = "FOLDER TO" if name == "publish" else "FOLDER"
            if len(folders) != len(takes.split()):
                raise UserError(f"{name} takes {takes}, not {shlex.join(words)!r}")
            print(archive.publish(*folders) if name == "publish" else archive.rebuild(*folders))
            return 0
        if name not in (*command.known(), "all"):
            raise UserError(f"{name!r} is not one of list, report, publish, rebuild, all, {', '.join(command.known())}")
        return command.reproduce(name, words)
    except (UserError, HydraException, OmegaConfBaseException, ModuleNotFoundError) as error:
        print(f"error: {absent(error) or readable(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}: give a folder that can be written", file=sys.stderr)
        return 2
    except Stopped:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 75
    finally:
        restore(before)
