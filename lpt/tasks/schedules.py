"""Learning-rate schedules: the factor on `optimizer.lr` at each optimizer step, as a function of progress.

Each maker gets the number of `steps` of the whole run and returns step -> factor, so that every schedule follows
`trainer.epochs` or `trainer.max_steps` by itself. `warmup` is the share of the run in which the factor rises linearly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[int], float]


def constant(steps: int, warmup: float = 0.0) -> Schedule:
    """1 throughout."""
    return _warmed(steps, warmup, lambda progress: 1.0)


def step(steps: int, milestones: Sequence[float] = (1 / 3, 2 / 3), gamma: float = 0.1, warmup: float = 0.0) -> Schedule:
    """Times `gamma` at each of the `milestones`, given as shares of the run (ResNet-18: 30 and 60 of 90 epochs).

    Raises:
        ValueError: milestones that are not shares of the run in rising order.
    """
    if not isinstance(milestones, Sequence) or isinstance(milestones, str):
        raise ValueError(f"scheduler.milestones={milestones!r}: give a list of shares of the run, e.g. [0.33,0.67]")
    if list(milestones) != sorted(milestones) or any(not 0 < m < 1 for m in milestones):
        raise ValueError(
            f"scheduler.milestones={list(milestones)}: give rising shares of the run between 0 and 1, e.g. [0.33,0.67]"
        )
    return _warmed(steps, warmup, lambda progress: gamma ** sum(progress >= m for m in milestones))


def cosine(steps: int, last: float = 0.0, warmup: float = 0.0) -> Schedule:
    """Half a cosine from 1 down to `last`."""
    return _warmed(steps, warmup, lambda p: last + (1 - last) * (1 + math.cos(math.pi * p)) / 2)


def inverse_sqrt(steps: int, warmup: float = 0.1) -> Schedule:
    """A linear rise to 1 over the share `warmup` of the run, then 1 / sqrt(step) (Vaswani et al. 2017, eq. 3)."""
    rising = max(1, round(warmup * steps))
    return _warmed(steps, warmup, lambda progress: math.sqrt(rising / max(rising, progress * steps)))


def onecycle(steps: int, peak: float = 0.3, first: float = 0.04, last: float = 0.0) -> Schedule:
    """Half a cosine up from `first` to 1 at the share `peak` of the run, then half a cosine down to `last`.

    Raises:
        ValueError: a peak outside (0, 1).
    """
    if not 0 < peak < 1:
        raise ValueError(f"scheduler.peak={peak} must lie between 0 and 1, for example 0.3")

    def factor(step: int) -> float:
        progress = min(1.0, step / max(1, steps))
        if progress < peak:
            return first + (1 - first) * (1 - math.cos(math.pi * progress / peak)) / 2
        return last + (1 - last) * (1 + math.cos(math.pi * (progress - peak) / (1 - peak))) / 2

    return factor


def _warmed(steps: int, warmup: float, after: Callable[[float], float]) -> Schedule:
    if not 0 <= warmup < 1:
        raise ValueError(f"scheduler.warmup={warmup} is a share of the run: give a number from 0 to below 1")
    rising = round(warmup * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return after(min(1.0, step / max(1, steps)))

    return factor
