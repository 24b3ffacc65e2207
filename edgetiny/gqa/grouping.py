"""Which key/value heads share: neighbours, or those that cost least when they do."""

import functools
import itertools
import math
from collections.abc import Callable

import numpy as np

Group = tuple[int, ...]
Grouping = tuple[Group, ...]
"""The old heads of each new head: groups of one size, each head once."""

_STARTS = 16
_FEW_GROUPS = 5000


def adjacent(n_heads: int, n_groups: int) -> Grouping:
    """Return groups of neighbouring heads."""
    size = n_heads // n_groups
    return tuple(tuple(range(first, first + size)) for first in range(0, n_heads, size))


def cheapest(n_heads: int, n_groups: int, cost: Callable[[Group], float]) -> Grouping:
    """Return groups of one size that cost little together.

    cost: of a group, its heads ascending; asked once for each group. Heads are swapped between
    groups as long as that saves, from the neighbours' grouping, and from shuffled ones where there
    are few groups to choose from: never worse than neighbours, and with eight heads the best in
    practice. The same costs give the same groups.
    """
    if n_groups in (1, n_heads):
        return adjacent(n_heads, n_groups)
    known = functools.cache(cost)
    size = n_heads // n_groups
    starts = [adjacent(n_heads, n_groups)]
    if math.comb(n_heads, size) <= _FEW_GROUPS:
        generator = np.random.default_rng(0)
        for _ in range(_STARTS - 1):
            rows = generator.permutation(n_heads).reshape(n_groups, size).tolist()
            starts.append(tuple(tuple(sorted(row)) for row in rows))
    searched = [_swapped(start, known) for start in starts]
    return tuple(sorted(min(searched, key=lambda grouping: sum(map(known, grouping)))))


def _swapped(grouping: Grouping, cost: Callable[[Group], float]) -> Grouping:
    """Swap two heads of different groups wherever that lowers their cost, until nothing does."""
    groups = list(grouping)
    improved = True
    while improved:
        improved = False
        for a, b in itertools.combinations(range(len(groups)), 2):
            for one, other in itertools.product(groups[a], groups[b]):
                if one not in groups[a] or other not in groups[b]:
                    continue  # it moved in this pass
                first = tuple(sorted({*groups[a], other} - {one}))
                second = tuple(sorted({*groups[b], one} - {other}))
                before = cost(groups[a]) + cost(groups[b])
                # By more than rounding, or two equal groupings would take turns.
                if cost(first) + cost(second) < before - 1e-9 * abs(before):
                    groups[a], groups[b] = first, second
                    improved = True
    return tuple(groups)
