"""Which key/value heads share: neighbours, or those that cost least when they do."""

import itertools

import numpy as np
from numpy.typing import NDArray

Grouping = tuple[tuple[int, ...], ...]
"""The old heads of each new head: groups of one size, each head once."""

_STARTS = 16


def adjacent(n_heads: int, n_groups: int) -> Grouping:
    """Return groups of neighbouring heads."""
    size = n_heads // n_groups
    return tuple(tuple(range(first, first + size)) for first in range(0, n_heads, size))


def cheapest(costs: NDArray[np.float64], n_groups: int) -> Grouping:
    """Return groups of one size whose pairs of heads cost little together.

    costs: (n_heads, n_heads), symmetric: what it costs that two heads share. Heads are swapped
    between groups while that saves, from the neighbours' grouping and from shuffled ones: a local
    search, which for eight heads finds the best in practice. The same costs give the same groups.
    """
    n_heads = len(costs)
    if n_groups in (1, n_heads):
        return adjacent(n_heads, n_groups)
    generator = np.random.default_rng(0)
    starts = [np.arange(n_heads)]
    starts += [generator.permutation(n_heads) for _ in range(_STARTS - 1)]
    searched = [_swapped(costs, start.reshape(n_groups, -1)) for start in starts]
    groups = min(searched, key=lambda groups: _total(costs, groups))
    return tuple(sorted(tuple(sorted(group)) for group in groups.tolist()))


def _swapped(costs: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Swap two heads of different groups as long as that lowers the total; the best swap first."""
    n_groups, size = groups.shape
    while True:
        best, best_pair = 0.0, None
        # to_group[head, group]: what the head costs with all heads of that group.
        to_group = costs[:, groups].sum(axis=2)
        for a, b in itertools.combinations(range(n_groups * size), 2):
            (g, i), (h, j) = divmod(a, size), divmod(b, size)
            if g == h:
                continue
            one, other = groups[g, i], groups[h, j]
            change = to_group[one, h] - to_group[one, g] + to_group[other, g] - to_group[other, h]
            change += costs[one, one] + costs[other, other] - 2 * costs[one, other]
            if change < best - 1e-12 * abs(costs).sum():
                best, best_pair = float(change), (g, i, h, j)
        if best_pair is None:
            return groups
        g, i, h, j = best_pair
        groups = groups.copy()
        groups[g, i], groups[h, j] = groups[h, j], groups[g, i]


def _total(costs: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
    return float(sum(costs[np.ix_(group, group)].sum() for group in groups))
