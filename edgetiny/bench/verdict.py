"""From interleaved samples to a verdict: slower, faster, the same, or not to be told.

A block holds samples of base, base again and head in mirrored order; its values are compared with
each other only, so what the machine does from block to block cancels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgetiny.bench.interval import Interval, clustered, clustered_draws
from edgetiny.measure import percentile

Verdict = Literal["regress", "improve", "same", "inconclusive"]

# Neighbours only ever slow a step; extra work slows every one. The first quartile of a sample
# moves with the work and stays clear of most interruptions, and unlike a minimum it is no outlier.
STEP_PERCENT = 25.0


@dataclass(frozen=True, slots=True)
class Block:
    """Step times in ms of one block: two samples of each side, log-averaged."""

    base: float
    again: float
    head: float

    @property
    def log_change(self) -> float:
        """Head over both runs of base."""
        return math.log(self.head) - 0.5 * (math.log(self.base) + math.log(self.again))

    @property
    def log_noise(self) -> float:
        """Base over itself: what the machine makes of no change at all."""
        return math.log(self.again) - math.log(self.base)


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """A verdict, and what led to it. `noise`: the typical ratio of base against itself, less 1.

    threshold: how much a median ratio must differ from 1 to count.
    """

    verdict: Verdict
    change: Interval
    noise: float
    threshold: float


def block_of(samples: Sequence[tuple[str, Sequence[int]]]) -> Block:
    """Return the block of samples (side, step times in ns); each side occurs twice."""
    logs: dict[str, list[float]] = {"base": [], "again": [], "head": []}
    for side, step_ns in samples:
        logs[side].append(math.log(percentile(step_ns, STEP_PERCENT) / 1e6))
    return Block(**{side: math.exp(sum(each) / len(each)) for side, each in logs.items()})


def judge(
    rounds: Sequence[Sequence[Block]], *, margin: float, noise_factor: float, confidence: float
) -> Judgement:
    """Return the verdict over all rounds.

    regress, improve: the interval of the median ratio excludes 1, and the change exceeds both
    `margin` and `noise_factor` times the noise. same: the interval lies within `margin`, whatever
    the noise. inconclusive: neither.
    """
    change = clustered([[block.log_change for block in each] for each in rounds], confidence)
    # Root mean square about no change: a bias between two equal processes counts as noise too.
    draws = clustered_draws([[block.log_noise for block in each] for each in rounds])
    noise = math.expm1(float(np.sqrt(np.mean(draws**2))))
    threshold = max(margin, noise_factor * noise)
    verdict: Verdict = "inconclusive"
    if change.low > 1.0 and change.ratio > 1.0 + threshold:
        verdict = "regress"
    elif change.high < 1.0 and 1.0 / change.ratio > 1.0 + threshold:
        verdict = "improve"
    elif change.low > 1.0 / (1.0 + margin) and change.high < 1.0 + margin:
        verdict = "same"
    return Judgement(verdict=verdict, change=change, noise=noise, threshold=threshold)
