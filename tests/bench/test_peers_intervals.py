"""Ratios of paired runs: exact where that can be counted, and never surer than the rounds allow."""

import random

import pytest
from peers.intervals import paired_ratio


def test_five_rounds_give_the_whole_range_and_say_how_sure_that_is() -> None:
    theirs = [100.0, 90.0, 110.0, 95.0, 105.0]
    ratios = [1.1, 1.2, 1.3, 0.9, 1.25]
    ours = [ratio * speed for ratio, speed in zip(ratios, theirs, strict=True)]
    interval, confidence = paired_ratio(ours, theirs)
    assert interval.low == pytest.approx(0.9)
    assert interval.high == pytest.approx(1.3)
    assert confidence == pytest.approx(0.9375)  # 1 - 2 / 2**5
    assert interval.is_tie


def test_swapping_sides_inverts_the_ratio() -> None:
    ours, theirs = [3.0, 4.0, 5.0, 6.5, 7.0], [2.0, 4.5, 4.0, 6.0, 6.0]
    there, _ = paired_ratio(ours, theirs)
    back, _ = paired_ratio(theirs, ours)
    assert there.ratio == pytest.approx(1 / back.ratio)
    assert there.low == pytest.approx(1 / back.high)


def test_what_slows_both_sides_of_a_round_changes_nothing() -> None:
    ours, theirs = [120.0, 121.0, 119.0, 122.0, 118.0], [100.0, 101.0, 99.0, 100.0, 98.0]
    slowed = [1.0, 0.5, 0.8, 0.3, 1.0]
    plain, _ = paired_ratio(ours, theirs)
    hit, _ = paired_ratio(
        [speed * part for speed, part in zip(ours, slowed, strict=True)],
        [speed * part for speed, part in zip(theirs, slowed, strict=True)],
    )
    assert hit.ratio == pytest.approx(plain.ratio)
    assert hit.low == pytest.approx(plain.low)


def test_more_rounds_reach_the_confidence_and_leave_outliers_out() -> None:
    ours = [1.10 + 0.01 * number for number in range(11)] + [9.0]
    interval, confidence = paired_ratio(ours, [1.0] * 12)
    assert confidence >= 0.95
    assert interval.high < 4.0
    assert interval.low > 1.10


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = random.Random(0)
    held = 0
    for _ in range(400):
        ours = [generator.lognormvariate(0.1, 0.05) for _ in range(8)]
        interval, _ = paired_ratio(ours, [1.0] * 8)
        held += interval.low <= 1.1052 <= interval.high
    assert 0.92 <= held / 400 <= 0.99


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired_ratio([1.0, 2.0], [1.0])
