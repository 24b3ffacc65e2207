"""The clock, and what repeated measurements come to."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass


def clock_ns() -> int:
    """Return a monotonic time in nanoseconds; only differences mean something."""
    return time.perf_counter_ns()


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle of repeated measurements and where most of them lie, in the unit of the values."""

    median: float
    p10: float
    p90: float
    count: int


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two middle ones."""
    return percentile(values, 50.0)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of them lie, interpolated linearly.

    Raises ValueError if there are no values, since no figure stands for none.
    """
    if not values:
        raise ValueError("no values to summarise")
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100.0
    below = math.floor(position)
    above = math.ceil(position)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def spread(values: Sequence[float]) -> Spread:
    """Return median, 10th and 90th percentile of the values."""
    return Spread(median(values), percentile(values, 10.0), percentile(values, 90.0), len(values))
