"""Ratios of paired runs, and how far they can be believed with few rounds.

Source: Hollander, Wolfe and Chicken 2014, "Nonparametric Statistical Methods", section 3.3: the
estimate and the interval that belong to the signed-rank test. Exact at any number of rounds, where
a bootstrap of five values is too sure of itself.
"""

import math
from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np

from edgetiny.bench.interval import Interval


def paired_ratio(
    ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95
) -> tuple[Interval, float]:
    """Return ours over theirs of runs of the same rounds, and the confidence that was reached.

    Five rounds reach 93.75% and no more: the interval is then the whole range.
    """
    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    means = sorted((a + b) / 2 for a, b in combinations_with_replacement(logs, 2))
    cut, reached = _cut(len(logs), confidence)
    middle = float(np.median(means))
    interval = Interval(
        ratio=math.exp(middle), low=math.exp(means[cut]), high=math.exp(means[-1 - cut])
    )
    return interval, reached


def _cut(n: int, confidence: float) -> tuple[int, float]:
    """Return how many pairwise means to drop at each end, and the confidence of what is left."""
    counts = np.zeros(n * (n + 1) // 2 + 1)
    counts[0] = 1.0
    for rank in range(1, n + 1):  # a difference of either sign: its rank counts or it does not
        shifted = np.zeros_like(counts)
        shifted[rank:] = counts[:-rank]
        counts = counts + shifted
    tail = np.cumsum(counts) / 2.0**n  # P(W <= w)
    cut = 0
    while cut + 1 < len(tail) // 2 and 1 - 2 * tail[cut + 1] >= confidence:
        cut += 1
    return cut, float(1 - 2 * tail[cut])
