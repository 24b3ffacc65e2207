"""Rank correlation and what chance would give, and which rows no other beats."""

import random
from collections.abc import Sequence

_SHUFFLES = 10_000


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Return the correlation of ranks, -1 to 1; None if either side is all one value.

    Source: Spearman 1904; equal values share the mean of their ranks.
    """
    first, second = ranks(xs), ranks(ys)
    mean = (len(first) + 1) / 2
    products = sum((a - mean) * (b - mean) for a, b in zip(first, second, strict=True))
    squares = [sum((rank - mean) ** 2 for rank in side) for side in (first, second)]
    if not all(squares):
        return None
    return float(products / (squares[0] * squares[1]) ** 0.5)


def ranks(values: Sequence[float]) -> list[float]:
    """Return the place of each value, from 1; equal values share the mean of their places."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in values]


def chance_bound(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return what |spearman| stays under in 95 of 100 shuffles of `ys`: beyond it is no accident.

    The shuffles are the same at every call.
    """
    order = random.Random(0)
    shuffled = list(ys)
    found = []
    for _ in range(_SHUFFLES):
        order.shuffle(shuffled)
        found.append(abs(spearman(xs, shuffled) or 0.0))
    return sorted(found)[int(0.95 * _SHUFFLES)]


def pareto_front(costs: Sequence[float], gains: Sequence[float]) -> list[bool]:
    """Return for each row whether no other costs no more and gains no less, one of them truly."""
    rows = list(zip(costs, gains, strict=True))

    def is_beaten(row: tuple[float, float]) -> bool:
        return any(other[0] <= row[0] and other[1] >= row[1] and other != row for other in rows)

    return [not is_beaten(row) for row in rows]
