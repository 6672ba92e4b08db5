"""The way of a run: configuration -> objects -> Trainer -> figures. `train.py` and `conf/` lead here."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ..errors import SweepFailed, UserError
from ..execution.heap import keep_freed_memory
from . import code
from .extras import absent
from .folder import ANOTHER
from .limits import refused
from .messages import CONF, readable, top_level
from .named import spell_out
from .outcome import JobFailed, Score, score
from .terminal import say, settle, show_anything, tell

FINISHED = "this run is finished; nothing was trained or overwritten"
NO_MEMORY = "the system does not give the memory or the threads that this run asks for"
DONE, OURS, USERS, RESUMABLE = 0, 1, 2, 75
OURS_IS = "LptSweeper"  # which goes on when a job fails, and tells exit codes from scores
Work = Callable[[DictConfig, dict[str, str]], Any]


def main(config: str = "config", work: Work | None = None) -> int:
    """`python train.py ...`, or another command with a `conf/<config>.yaml`; returns the exit code.

    Args:
        config: the file in `conf`.
        work: does what (the composed configuration, the file chosen in each group) say; `train` if None.
    """
    codes = [DONE]
    show_anything()
    keep_freed_memory()

    def task(cfg: DictConfig) -> int | Score:
        found = job(cfg, work or train)
        codes.append(DONE if isinstance(found, Score) else found)
        hydra_cfg = HydraConfig.get()
        if codes[-1] and hydra_cfg.mode == RunMode.MULTIRUN and not str(hydra_cfg.sweeper._target_).endswith(OURS_IS):
            raise JobFailed(codes[-1])
        return found

    debugging = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of exiting with 1
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config)(task)()
    except (SweepFailed, JobFailed) as error:
        return error.code
    except BrokenPipeError:  # of Hydra's help: nobody reads on (a job tells its own)
        return DONE
    except Exception as error:  # a job tells its own (see `job`): this one is of the command line or of Hydra's parts
        if debugging:
            traceback.print_exc()
        command = os.path.relpath(sys.argv[0])
        print(f"error: {readable(error, config)}\n`python {command} --help` lists every choice.", file=sys.stderr)
        return USERS
    finally:
        settle()
        if not debugging:
            del os.environ["HYDRA_FULL_ERROR"]
    return codes[-1]


def job(cfg: DictConfig, work: Work) -> int | Score:
    """One run, alone or within a sweep; returns its exit code, or the score of a training that is done. Errors are told
    here, so that a sweep can go on."""
    from ..callbacks.checks import SilentError
    from ..callbacks.metrics import Diverged
    from ..callbacks.signals import Finished, Stopped, on_stop, restore

    def stop(*_: Any) -> None:
        raise Stopped

    handlers = on_stop(stop)
    hydra_cfg = HydraConfig.get()
    try:
        if hydra_cfg.mode == RunMode.MULTIRUN and isinstance(cfg.trainer.devices, int) and cfg.trainer.devices > 1:
            raise UserError("a sweep (-m) cannot start jobs on several devices: start each of them by itself")
        result = work(spell_out(cfg), dict(hydra_cfg.runtime.choices))
    except Stopped as stopped:
        if isinstance(stopped, Finished) and work is train and hydra_cfg.mode != RunMode.MULTIRUN:
            return DONE
        again = "" if cfg.resume is True else " with resume=true"
        tell(f"stopped; the same command{again} goes on from here")
        raise SystemExit(RESUMABLE) from None
    except (UserError, OmegaConfBaseException) as error:
        print(f"error: {error}", file=sys.stderr)
        return USERS
    except Diverged as error:
        kept = "the last good checkpoint, if one was written, is kept"
        print(f"error: {error}; {kept}. Lower optimizer.lr, say.", file=sys.stderr)
        return OURS
    except SilentError as error:
        print(f"error: {error}", file=sys.stderr)
        return OURS
    except OSError as error:
        print(
            f"error: {error}: the run stopped; resume=true goes on from its last checkpoint, if it has one",
            file=sys.stderr,
        )
        return OURS
    except Exception as error:
        if told := absent(error):
            print(f"error: {told}", file=sys.stderr)
            return USERS
        if refused(error):
            print(f"error: {NO_MEMORY} ({first_line(error)}): lower trainer.batch_size, say", file=sys.stderr)
            return OURS
        traceback.print_exc()
        return OURS
    finally:
        restore(handlers)
    return score(result)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def train(cfg: DictConfig, choices: dict[str, str]) -> dict[str, Any]:
    """Do the run that `cfg` describes, or continue it, and return what its summary.json holds.

    Raises:
        UserError: before anything is written, if the configuration cannot be run.
    """
    from ..callbacks.signals import Finished, handlers, late, restore
    from .experiment import Experiment

    known = top_level()
    if odd := sorted(str(key) for key in cfg if key not in known):
        raise UserError(f"{odd[0]}: nothing reads this key. Valid here: {', '.join(known)}")
    if not isinstance(cfg.paths, DictConfig):
        raise UserError(f"paths={cfg.paths!r} has no key of its own: write paths.outputs=DIR")
    try:
        experiment = Experiment(cfg, choices)
    except (RuntimeError, MemoryError) as error:
        if not refused(error):
            raise
        raise UserError(f"{NO_MEMORY} ({first_line(error)}): give a smaller model, batch or data set") from error
    folder = experiment.folder
    before = folder.kept()
    compare_code(before, experiment)
    try:
        state = folder.open(experiment.resume)
    except OSError as error:
        raise UserError(
            f"paths.outputs={cfg.paths.outputs}: {folder.path} cannot be made ({error.strerror}): give a folder that "
            "can be written"
        ) from error
    outer = handlers()
    try:
        finished = experiment.recover(state)
        if experiment.leads:
            tell_of(experiment, state, finished)
        if not finished:
            experiment.fit()
        summary = folder.summary()
    finally:
        folder.close()
        if cfg.compile is True:  # torch counts what it compiled of all networks together, and runs the ninth eagerly
            import torch

            torch.compiler.reset()
    if experiment.leads:
        from .summary import table

        say(f"\n{table(summary, folder.path)}")
    asked = late()
    restore(outer)
    if asked:
        raise Finished
    return {**summary, "folder": str(folder.path)}


def tell_of(experiment: Any, state: str, finished: bool) -> None:
    """Say whether the run goes on, and from where."""
    if finished:
        tell(FINISHED if experiment.resume else f"{FINISHED}:\n{ANOTHER}")
    elif experiment.resume:
        point = experiment.start.name if experiment.start else "the start: it had saved nothing yet"
        tell("nothing to continue: this run is new" if state == "new" else f"continuing from {point}")


def compare_code(before: dict[str, Any], experiment: Any) -> None:
    """Say what of the code is not what it was when the run began, as its summary.json tells.

    Raises:
        UserError: it is the user's own, and `resume` is off.
    """
    from .summary import git_commit

    if isinstance(before.get("own_code"), str) and (odd := code.changed(before["own_code"], experiment.own_code)):
        what = f"your own code is not what it was when {experiment.folder.path} was made: {', '.join(odd)}"
        if not experiment.resume:
            raise UserError(
                f"{what}.\n  variant=WORD  makes a run with the new code beside that one, which stays\n"
                "  resume=true   continues it, or prints its table, all the same"
            )
        if experiment.leads:
            print(f"note: {what}; variant=WORD makes a run with the new code beside it", file=sys.stderr)
    if experiment.leads and before.get("git_commit") and before["git_commit"] != (now := git_commit()):
        print(f"note: this run was begun with commit {before['git_commit']}, the code is at {now}", file=sys.stderr)
