"""Random command lines of `train.py`: valid choices and keys mixed with values that nobody meant.

`python tests/fuzzing.py 600 1` tries 600 of them from seed 1, in this process, each up to the moment at which a run
would make its folder, and prints those that ended otherwise than a user's mistake or a start does.
"""

from __future__ import annotations

import contextlib
import io
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
REACHED = "REACHED"  # what is said in the place of a start
TINY = ("model.width=4", "data.train_limit=64", "trainer.accelerator=cpu", "logger.mode=disabled", "compile=false")
# What is composed and built in a moment, without a network and without data that somebody must have.
GROUPS = {
    "model": ("resnet8", "resnet20", "lstm", "gpt", "custom"), "data": ("digits", "npz", "text", "imagefolder"),
    "task": ("classification", "language", "detection", "translation"), "format": ("fp134", "int8", "custom", "fp32"),
    "products": ("none", "mxfp8", "nvfp4", "custom"), "weights": ("log4_hyst", "int4", "custom", "fp32", "mxfp4_hyst"),
    "indicators": ("none", "flips", "default"), "averaging": ("none", "ema"), "trainer": ("default", "smoke"),
    "optimizer": ("sgd", "adamw"), "scheduler": ("step", "cosine", "constant"), "logger": ("wandb",),
    "recipe": ("mxfp8", "paper", "null"), "experiment": ("null", "resnet18_cifar10", "lstm_ptb"),
}  # fmt: skip
NUMBERS = (
    "0", "1", "-1", "2", "0.5", "-0.0", "1e-300", "1e400", "nan", "inf", "-inf", "9999999999999999999999", "1_000",
    "100000", "9" * 330, "true", "null",
)  # fmt: skip
VALUES = (
    *NUMBERS, "", "''", "' '", "a/b", "../..", "/dev/null/x", "ä", "\x01", "\x07\x1b[31m", "\n", "a\tb", "'\x00'",
    "[]", "{}", "[[1,[2]],{a:b}]", "[a,'b',3,null]", "{a:{b:{c:[]}}}", "[1,2", "{a:", "\"", "'", "a=b", "@", "~", "${",
    "${nothing}", "${oc.env:NOTHING}", "${seed}", "???", "x" * 3000, "[" * 40 + "]" * 40, "1,2", "range(1,3)", "*",
    "%s", "int8", "fp134", "resnet8", "digits", "{_target_: builtins.len}", "[{pattern: 'conv*', error: 3}]",
)  # fmt: skip
TARGETS = ("[]", "3", "null", "''", "nope.nope", "lpt.nope", "lpt.DataFlow", "torch.nn.Linear", "builtins.len", "lpt",
           "lpt.models", "...", "{a:b}", "'a b'")  # fmt: skip
FLAGS = ("hydra/launcher=nope", "hydra.verbose=3", "hydra.job.name=[]", "hydra.sweeper.jobs=3", "hydra.run.dir=[]",
         "--nope", "--cfg", "--resolve", "hydra=x", "--config-name=nope", "--package=3")  # fmt: skip


def keys() -> list[str]:
    """The names of all keys of `conf/config.yaml` and of the groups in it, and those of their `_target_`s."""
    found = [*_flat(yaml.safe_load((ROOT / "conf" / "config.yaml").read_text(encoding="utf-8")))]
    for group, names in GROUPS.items():
        for name in names:
            path = ROOT / "conf" / group / f"{name}.yaml"
            if path.is_file() and group not in ("experiment", "recipe"):
                found += [f"{group}.{key}" for key in _flat(yaml.safe_load(path.read_text(encoding="utf-8")) or {})]
    return sorted({key for key in found if "defaults" not in key and not key.startswith("hydra") and "/" not in key})


def _flat(node: Any, at: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{at}{key}"
        yield from _flat(value, f"{at}{key}.")


def command_line(chance: random.Random, known: list[str]) -> list[str]:
    """One command line: one to five words beside those that keep it small."""
    words = []
    for _ in range(chance.choice((1, 1, 2, 2, 3, 5))):
        kind = chance.random()
        if kind < 0.25:
            group = chance.choice(list(GROUPS))
            words.append(f"{group}={chance.choice((*GROUPS[group], 'nope', chance.choice(VALUES)))}")
        elif kind < 0.35:
            words.append(f"{chance.choice([k for k in known if k.endswith('_target_')])}={chance.choice(TARGETS)}")
        elif kind < 0.39:
            words.append(chance.choice(FLAGS))
        elif kind < 0.44:
            words.append(
                f"+{chance.choice(('foo', 'model.foo', 'optimizer', 'a.b.c', 'seed'))}={chance.choice(VALUES)}"
            )
        elif kind < 0.47:
            words.append(f"~{chance.choice(known)}")
        else:
            pool = NUMBERS if chance.random() < 0.4 else VALUES
            words.append(f"{chance.choice(('', '', '', '++'))}{chance.choice(known)}={chance.choice(pool)}")
    return [*(word for word in words if word.startswith("--")), *TINY, *(w for w in words if not w.startswith("--"))]


def tried(words: list[str], folder: Path) -> tuple[Any, str]:
    """The exit code of `train.py WORDS` (an exception if one escapes), and what it printed, up to the run's folder."""
    from lpt.errors import UserError
    from lpt.runs import run
    from lpt.runs.folder import RunFolder

    def reached(*_: Any, **__: Any) -> str:
        raise UserError(REACHED)

    said = io.StringIO()
    given = [*(w for w in words if w.startswith("--")), f"paths.outputs={folder}", *(w for w in words if w[:2] != "--")]
    with (
        mock.patch.object(RunFolder, "open", reached), mock.patch.object(sys, "argv", [str(ROOT / "train.py"), *given]),
        contextlib.redirect_stdout(said), contextlib.redirect_stderr(said),
    ):  # fmt: skip
        try:
            code: Any = run.main()
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            code = error
    return code, said.getvalue()


def wrong(code: Any, said: str, folder: Path) -> str:
    """What a user would complain of; "" if nothing."""
    if code not in (0, 2):
        return f"ended with {code!r}"
    if "Traceback" in said:
        return "a traceback"
    return "a folder was made" if folder.exists() or Path("outputs").exists() else ""


def main(count: int, seed: int) -> None:
    chance, known = random.Random(seed), keys()
    reached = bad = 0
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        for number in range(count):
            words = command_line(chance, known)
            code, said = tried(words, Path(place) / "o")
            reached += REACHED in said
            if odd := wrong(code, said, Path(place) / "o"):
                bad += 1
                print(f"== {number}: {odd}: {words[len(TINY) :]!r}\n{said[-1500:]}", flush=True)
    print(f"{count} command lines, {reached} could start, {bad} ended badly")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
