"""How far a ratio can be believed: bootstrap intervals, the same for the same samples.

Ratios are handled as logarithms, so that twice as fast and half as fast lie equally far from 1.
Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 13 and 16.
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


def ratio_of_medians(base: Sequence[float], other: Sequence[float], confidence: float) -> Interval:
    """Return median(other) / median(base) of independent samples, each resampled by itself."""
    random = np.random.default_rng(0)
    medians = []
    for samples in (base, other):
        values = np.asarray(samples, np.float64)
        drawn = random.integers(0, len(values), (RESAMPLES, len(values)))
        medians.append((float(np.median(values)), np.median(values[drawn], axis=1)))
    (base_median, base_draws), (other_median, other_draws) = medians
    return _interval(
        math.log(other_median / base_median), np.log(other_draws / base_draws), confidence
    )


def clustered(rounds: Sequence[Sequence[float]], confidence: float) -> Interval:
    """Return the median of log-ratios that were measured in rounds, as a ratio.

    Rounds are drawn first, then blocks in each: what all blocks of one process share (where its
    memory lies, say) is no proof of anything until other processes show it too.
    """
    pooled = np.concatenate([np.asarray(each, np.float64) for each in rounds])
    return _interval(float(np.median(pooled)), clustered_draws(rounds), confidence)


def clustered_draws(rounds: Sequence[Sequence[float]]) -> Reals:
    """Return the resampled medians (RESAMPLES,) behind `clustered`; rounds of equal length."""
    values = np.asarray(rounds, np.float64)  # (rounds, blocks)
    n_rounds, n_blocks = values.shape
    random = np.random.default_rng(0)
    which = random.integers(0, n_rounds, (RESAMPLES, n_rounds, 1))
    block = random.integers(0, n_blocks, (RESAMPLES, n_rounds, n_blocks))
    medians: Reals = np.median(values[which, block].reshape(RESAMPLES, -1), axis=1)
    return medians


def _interval(log_ratio: float, draws: Reals, confidence: float) -> Interval:
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(draws, [tail, 100.0 - tail])
    return Interval(ratio=math.exp(log_ratio), low=math.exp(low), high=math.exp(high))
