import itertools

import numpy as np
import pytest

from edgetiny.gqa.grouping import adjacent, cheapest


def partitions(heads, size):
    """Yield all ways to divide heads into groups of one size."""
    if not heads:
        yield ()
        return
    for others in itertools.combinations(heads[1:], size - 1):
        group = (heads[0], *others)
        rest = [head for head in heads if head not in group]
        yield from ((group, *groups) for groups in partitions(rest, size))


def total(costs, grouping):
    return sum(costs[a, b] for group in grouping for a in group for b in group)


@pytest.mark.parametrize(("n_heads", "n_groups"), [(6, 3), (6, 2), (8, 4), (8, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_groups_cost_less(n_heads, n_groups, seed):
    costs = np.random.default_rng(seed).random((n_heads, n_heads))
    costs += costs.T
    found = cheapest(costs, n_groups)
    least = min(total(costs, p) for p in partitions(list(range(n_heads)), n_heads // n_groups))
    assert sorted(head for group in found for head in group) == list(range(n_heads))
    assert total(costs, found) == pytest.approx(least)


def test_families_are_found_and_neighbours_kept_where_nothing_differs():
    family = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    costs = (family[:, None] != family).astype(float)
    assert cheapest(costs, 3) == ((0, 3, 6), (1, 4, 7), (2, 5, 8))
    assert cheapest(np.zeros((8, 8)), 4) == adjacent(8, 4) == ((0, 1), (2, 3), (4, 5), (6, 7))


def test_one_group_or_one_head_each_leaves_no_choice():
    costs = np.random.default_rng(0).random((4, 4))
    assert cheapest(costs, 1) == ((0, 1, 2, 3),)
    assert cheapest(costs, 4) == ((0,), (1,), (2,), (3,))
