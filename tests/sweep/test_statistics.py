import random

import pytest

from edgetiny.sweep.statistics import chance_bound, pareto_front, ranks, spearman


def test_spearman_of_one_order_is_one_whatever_the_scale():
    xs = [1.0, 5.0, 2.0, 9.0]
    assert spearman(xs, [x**3 for x in xs]) == pytest.approx(1.0)
    assert spearman(xs, [-x for x in xs]) == pytest.approx(-1.0)


def test_spearman_agrees_with_the_formula_of_differences():
    order = random.Random(1)
    xs = [float(value) for value in range(9)]
    ys = xs.copy()
    order.shuffle(ys)
    squares = sum((x - y) ** 2 for x, y in zip(ranks(xs), ranks(ys), strict=True))
    assert spearman(xs, ys) == pytest.approx(1 - 6 * squares / (9 * (81 - 1)))


def test_equal_values_share_a_rank():
    assert ranks([3.0, 1.0, 3.0]) == [2.5, 1.0, 2.5]


def test_one_value_has_no_correlation():
    assert spearman([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]) is None


def test_chance_shrinks_as_rows_come():
    few, many = ([float(value) for value in range(n)] for n in (5, 30))
    assert chance_bound(few, few) > chance_bound(many, many)
    # Published critical value of 30 pairs at 5%, two-sided: 0.362 (Zar 1972).
    assert chance_bound(many, many) == pytest.approx(0.362, abs=0.02)


def test_the_front_holds_what_nothing_beats():
    assert pareto_front([1.0, 2.0, 3.0, 1.5], [5.0, 6.0, 6.0, 4.0]) == [True, True, False, False]


def test_equal_rows_are_both_on_the_front():
    assert pareto_front([1.0, 1.0], [2.0, 2.0]) == [True, True]
