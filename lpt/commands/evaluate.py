"""Evaluate a run in any format: `python scripts/evaluate.py outputs/RUN [format=int8] [weights=int4] [key=value ...]`.

RUN is the folder of a run (its last checkpoint is taken), RUN/best, or a checkpoint's file.
Without more, formats and weights are the run's own. `weights=` rounds the run's full-precision masters to nearest;
statistics=anew then estimates batch-norm statistics from training data. split=test takes the test part, where there is
one. Results are kept in RUN/evaluations.jsonl. A run of a model or format of one's own names its code, which is called
only for those who trust that run: trust=[my_package].
A language model also writes: sample=200 (tokens) [temperature=0.8] [seed=1] [prompt="The "].
Exit code: 0 done, 2 a mistake in the command.
"""

import sys

from ..runs.terminal import say
from .answering import answered, listed


def main(arguments: list[str] | None = None) -> int:
    return answered(__doc__ or "", _evaluate, arguments)


def _evaluate(arguments: list[str]) -> None:
    from ..runs.evaluation import Asked, keep, measured, prepared
    from ..runs.sampling import Wish

    wish, overrides = Wish.among(arguments[1:])
    asked, overrides = Asked.among(overrides)
    task = prepared(arguments[0], overrides, asked)
    text = wish.of(task) if wish else ""
    figures = measured(task, asked)
    kept = keep(arguments[0], asked, overrides, figures)
    say(listed(figures))
    if kept:
        print(f"kept in {kept}", file=sys.stderr)
    if wish:
        say(f"\n{text}")
