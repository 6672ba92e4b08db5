"""Which formats are the best, for as few evaluations as will do: a race over mini-batches.

Angles of different formats on one batch rise and fall together, so formats are compared by their paired ratios: the
residuals x_f - R x_g of each batch, with R the ratio of their means, are what is left once the batch itself is taken
out (the ratio estimator of survey sampling: Cochran, "Sampling Techniques", chapter 6). The B batches are a finite
population that an exhaustive search would measure whole, so a mean over n of them has the standard error
s sqrt((1 - n/B) / n), and none at n = B. Variances of few batches are drawn towards those of the whole field (Smyth
2004, "Linear models and empirical Bayes methods"), which gives Student's t more degrees of freedom.

Successive elimination: after each batch, p of a format outside the present top is the probability, summed over the
formats of the top, that it is better than one of them by more than the zone. There is a budget of a quarter of
1 - confidence. Formats with the smallest p leave while the sum of all p spent stays below n/B of the budget; the race
ends when the rest would leave for what is not spent. So the budget bounds the sum of the probabilities of a wrong
decision (Bonferroni; Branke, Chick & Schmidt 2007, "Selecting a selection procedure", call the complement the
probability of good selection). The other three quarters are for what the p do not know: that residuals are not quite
normal, that formats share their batches, and that the race looks after every batch.

The zone within which two formats count as equal: 0.02 degrees, or the standard error of their paired difference over
all B batches if that is more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

ZONE = 0.02  # degrees
START = 2  # batches before the first decision
PRIOR = 16.0  # most degrees of freedom of the prior
CAUTION = 4  # by which the probabilities that are reckoned with are multiplied
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What a race ended with.

    Args:
        order: formats from best to worst: the top, then the others by their mean.
        scores: [batches run, formats], nan where a format was not evaluated.
        doubt: `CAUTION` times the sum of the probabilities of its decisions being wrong, at most 1 - confidence; 0 if
            nothing was decided before the last batch.
    """

    order: list[int]
    scores: Array
    doubt: float


def race(
    evaluate: Callable[[int, Sequence[int]], Sequence[float]],
    formats: int,
    batches: int,
    top: int = 10,
    confidence: float = 0.95,
    watch: Callable[[int, int], None] = lambda batch, alive: None,
) -> Outcome:
    """Find the `top` of `formats` with the lowest mean over `batches`.

    Args:
        evaluate: (batch, formats) -> their scores; called for batch 0, 1, 2, ...
        formats: how many; of equals the earlier one is the better.
        batches: how many there are; in random order.
        top: how many are looked for.
        confidence: at least the probability that the top is right, up to the zone.
        watch: told the batch and the number of formats still in the race.
    """
    budget = (1 - confidence) / CAUTION
    scores = np.full((batches, formats), np.nan)
    alive = np.arange(formats)
    spent = 0.0
    n = 0
    while n < batches and len(alive) > top:
        watch(n, len(alive))
        scores[n, alive] = evaluate(n, alive.tolist())
        n += 1
        if n < START or n == batches:
            continue
        ranked = alive[np.argsort(scores[:n, alive].mean(0), kind="stable")]
        wrong = wrong_decisions(scores[:n][:, ranked], top, batches)
        sums = spent + np.cumsum(np.sort(wrong))
        if sums[-1] <= budget:
            return Outcome(_order(scores[:n], ranked[:top]), scores[:n], CAUTION * float(sums[-1]))
        out = np.argsort(wrong, kind="stable")[: int((sums <= budget * n / batches).sum())]
        spent = float(sums[len(out) - 1]) if len(out) else spent
        alive = np.sort(np.delete(ranked, top + out))
    ranked = alive[np.argsort(scores[:n, alive].mean(0), kind="stable")]
    return Outcome(_order(scores[:n], ranked[:top]), scores[:n], CAUTION * spent)


def wrong_decisions(x: Array, top: int, batches: int) -> Array:
    """For each format after the first `top`: the probability that it is better than one of those by more than the zone.

    Args:
        x: scores [n, formats], formats sorted by their means.
        top, batches: as in `race`.

    Returns:
        sums over the first `top` formats, [formats - top].
    """
    n = len(x)
    inside, outside = x[:, :top, None], x[:, None, top:]
    mean_in, mean_out = inside.mean(0), outside.mean(0)
    spread = outside - np.divide(mean_out, mean_in, where=mean_in > 0, out=np.ones((top, x.shape[1] - top))) * inside
    variance = (spread**2).sum(0) / (n - 1)
    same = (outside == inside).all(0)
    size = np.maximum(mean_in * mean_out, np.finfo(float).tiny)
    place = np.log(np.maximum(mean_out, 1e-300) / np.maximum(mean_in, 1e-300))
    variance, freedom = moderated(variance / size, n - 1, place)
    variance = variance * size
    zone = np.maximum(ZONE, np.sqrt((variance + (mean_out - mean_in) ** 2 * _cv2(x)) / batches))
    error = np.sqrt(variance * (1 - n / batches) / n)
    t = (mean_out - mean_in + zone) / np.maximum(error, np.finfo(float).tiny)
    return np.where(same, 0.0, stats.t.sf(t, freedom)).sum(0)


def moderated(variance: Array, freedom: int, place: Array) -> tuple[Array, float]:
    """Variances of `freedom` degrees of freedom drawn towards a common prior; and the degrees that they then have.

    The prior's log variance is a straight line in `place`: the further apart two formats, the less do they move
    together. Its degrees of freedom are those whose F distribution has the spread of the log variances around the line
    (Smyth 2004, section 6.2), but not more than `PRIOR`, since formats on the same batches are not independent.
    """
    known = variance > 0
    if known.sum() < 10 or np.ptp(place[known]) == 0:
        return variance, freedom
    logs = np.log(variance[known]) - special.digamma(freedom / 2) + np.log(freedom / 2)
    line = np.polyfit(place[known], logs, 1)
    extra = (logs - np.polyval(line, place[known])).var() - special.polygamma(1, freedom / 2)
    prior = min(PRIOR, 2 * _trigamma_inverse(extra)) if extra > 0 else PRIOR
    centre = np.exp(np.polyval(line, place) + special.digamma(prior / 2) - np.log(prior / 2))
    return (prior * centre + freedom * variance) / (prior + freedom), freedom + prior


def _trigamma_inverse(value: float) -> float:
    """y with trigamma(y) = value, by Newton's method on 1 / trigamma (Smyth 2004, appendix)."""
    y = 0.5 + 1 / value
    for _ in range(50):
        trigamma = special.polygamma(1, y)
        step = trigamma * (1 - trigamma / value) / special.polygamma(2, y)
        y += step
        if abs(step) < 1e-8 * y:
            break
    return float(y)


def _cv2(x: Array) -> float:
    """Squared coefficient of variation of the batches: how far they raise and lower all angles together."""
    whole = x.mean(1)
    return float(whole.var(ddof=1) / max(whole.mean() ** 2, np.finfo(float).tiny))


def _order(scores: Array, first: NDArray[np.int64]) -> list[int]:
    """`first`, then all others by their means."""
    means, _ = estimates(scores, first.tolist())
    others = [int(i) for i in np.argsort(means, kind="stable") if i not in set(first.tolist())]
    return [*first.tolist(), *others]


def estimates(scores: Array, first: Sequence[int]) -> tuple[Array, Array]:
    """Mean and standard error for each format, comparable although they ran on different numbers of batches.

    A format's mean over its own batches is multiplied by the ratio of the means of the formats `first`, which ran on
    all batches, over all batches and over its own. The error is that of the mean over all batches of the distribution
    that they are drawn from, by the ratio's residuals where a format ran on fewer.

    Args:
        scores: [n, formats], nan where a format was not evaluated; columns begin without nan.
        first: formats without nan.
    """
    n = len(scores)
    base = scores[:, list(first)].mean(1)
    ran = (~np.isnan(scores)).sum(0)
    means, errors = np.zeros(scores.shape[1]), np.zeros(scores.shape[1])
    base_error = base.std(ddof=1) / np.sqrt(n) / max(base.mean(), 1e-300) if n > 1 else np.nan
    for i, m in enumerate(ran):
        x = scores[:m, i]
        ratio = x.mean() / max(base[:m].mean(), 1e-300)
        means[i] = x.mean() if m == n else ratio * base.mean()
        if m == n:
            errors[i] = x.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
        else:
            own = (x - ratio * base[:m]).std(ddof=1) / np.sqrt(m) if m > 1 else np.nan
            errors[i] = np.hypot(own, means[i] * base_error)
    return means, errors
