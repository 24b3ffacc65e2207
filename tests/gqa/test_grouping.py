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


def of_pairs(costs):
    """Return the cost of a group as a sum over its pairs."""
    return lambda group: sum(costs[a, b] for a in group for b in group)


def total(costs, grouping):
    return sum(map(of_pairs(costs), grouping))


@pytest.mark.parametrize(("n_heads", "n_groups"), [(6, 3), (6, 2), (8, 4), (8, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_no_other_groups_cost_less(n_heads, n_groups, seed):
    costs = np.random.default_rng(seed).random((n_heads, n_heads))
    costs += costs.T
    found = cheapest(n_heads, n_groups, of_pairs(costs))
    least = min(total(costs, p) for p in partitions(list(range(n_heads)), n_heads // n_groups))
    assert sorted(head for group in found for head in group) == list(range(n_heads))
    assert total(costs, found) == pytest.approx(least)


def test_families_are_found_and_neighbours_kept_where_nothing_differs():
    family = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2])
    costs = (family[:, None] != family).astype(float)
    assert cheapest(9, 3, of_pairs(costs)) == ((0, 3, 6), (1, 4, 7), (2, 5, 8))
    assert cheapest(8, 4, lambda group: 1.0) == adjacent(8, 4) == ((0, 1), (2, 3), (4, 5), (6, 7))


def test_one_group_or_one_head_each_leaves_no_choice():
    assert cheapest(4, 1, lambda group: 1 / 0) == ((0, 1, 2, 3),)
    assert cheapest(4, 4, lambda group: 1 / 0) == ((0,), (1,), (2,), (3,))


def test_no_group_is_tried_twice_and_many_heads_never_end_worse_than_neighbours():
    asked = []
    costs = np.random.default_rng(1).random((32, 32))

    def cost(group):
        assert list(group) == sorted(group)
        asked.append(group)
        return of_pairs(costs)(group)

    found = cheapest(32, 8, cost)
    assert len(asked) == len(set(asked))
    assert total(costs, found) < total(costs, adjacent(32, 8))
