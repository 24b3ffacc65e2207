"""How far a ratio can be believed: intervals that are the same for the same samples.

Ratios are handled as logarithms, so that twice as fast and half as fast lie equally far from 1.
Sources: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 13 and 16, for many
samples; Hollander, Wolfe and Chicken 2014, "Nonparametric Statistical Methods", section 4.3, for
few, of which a bootstrap is too sure: three against three exclude 1 in a tenth of all cases in
which nothing changed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000

Reals = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A ratio, and where it lies with the confidence that was asked for."""

    ratio: float
    low: float
    high: float

    @property
    def is_tie(self) -> bool:
        """Whether 1 lies within."""
        return self.low <= 1.0 <= self.high

    @property
    def text(self) -> str:
        """The ratio and its interval for a table."""
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


def ratio_of_samples(
    base: Sequence[float], other: Sequence[float], confidence: float
) -> tuple[Interval, float]:
    """Return other over base of independent samples, and the confidence that the interval has.

    The rank sum test's estimate, the median over all pairs, and its interval: exact at any number
    of samples. Few of them reach no more than `reached_by` says.
    """
    logs = sorted(math.log(b / a) for a in base for b in other)
    cut, reached = _cut(len(base), len(other), confidence)
    interval = Interval(
        ratio=math.exp(float(np.median(logs))),
        low=math.exp(logs[cut]),
        high=math.exp(logs[-1 - cut]),
    )
    return interval, reached


def reached_by(n: int, m: int) -> float:
    """Return the most confidence that an interval of `n` and `m` samples has: 90% of three each."""
    return 1 - 2 / math.comb(n + m, n)


def _cut(n: int, m: int, confidence: float) -> tuple[int, float]:
    """Return how many pairs to drop at each end, and the confidence of what is left."""
    # ways[k][u]: how many choices of k of the ranks seen so far lie u above the lowest choice.
    ways = np.zeros((n + 1, n * m + 1))
    ways[0, 0] = 1.0
    for rank in range(n + m):
        for k in range(min(n, rank + 1), 0, -1):
            above = rank - (k - 1)
            if above <= m:
                ways[k, above:] += ways[k - 1, : n * m + 1 - above]
    tail = np.cumsum(ways[n]) / ways[n].sum()  # P(U <= u)
    cut = 0
    while 2 * (cut + 1) < n * m and 1 - 2 * tail[cut + 1] >= confidence:
        cut += 1
    return cut, max(0.0, float(1 - 2 * tail[cut]))


def clustered(rounds: Sequence[Sequence[float]], confidence: float) -> Interval:
    """Return the median of log-ratios that were measured in rounds, as a ratio.

    Rounds are drawn first, then blocks in each: what all blocks of one process share (where its
    memory lies, say) is no proof of anything until other processes show it too.
    """
    return _interval(float(np.median(rounds)), clustered_draws(rounds), confidence)


def clustered_ratio(
    base: Sequence[Sequence[float]], other: Sequence[Sequence[float]], confidence: float
) -> Interval:
    """Return median(other) / median(base), each measured in rounds of its own."""
    first, second = (np.log(np.asarray(rounds, np.float64)) for rounds in (base, other))
    return _interval(
        float(np.median(second) - np.median(first)),
        clustered_draws(second, seed=1) - clustered_draws(first),
        confidence,
    )


def clustered_draws(rounds: Sequence[Sequence[float]] | Reals, seed: int = 0) -> Reals:
    """Return the resampled medians (RESAMPLES,) behind `clustered`; rounds of equal length."""
    values = np.asarray(rounds, np.float64)  # (rounds, blocks)
    n_rounds, n_blocks = values.shape
    random = np.random.default_rng(seed)
    which = random.integers(0, n_rounds, (RESAMPLES, n_rounds, 1))
    block = random.integers(0, n_blocks, (RESAMPLES, n_rounds, n_blocks))
    medians: Reals = np.median(values[which, block].reshape(RESAMPLES, -1), axis=1)
    return medians


def _interval(log_ratio: float, draws: Reals, confidence: float) -> Interval:
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(draws, [tail, 100.0 - tail])
    return Interval(ratio=math.exp(log_ratio), low=math.exp(low), high=math.exp(high))
