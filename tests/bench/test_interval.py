import math

import numpy as np
import pytest

from edgetiny.bench.interval import clustered, ratio_of_medians


def samples(seed, *, n=40, scale=1.0, noise=0.03):
    return list(scale * np.random.default_rng(seed).lognormal(0.0, noise, n))


def test_the_same_samples_give_the_same_interval():
    assert ratio_of_medians(samples(1), samples(2), 0.95) == ratio_of_medians(
        samples(1), samples(2), 0.95
    )


def test_swapping_the_sides_inverts_the_ratio():
    there = ratio_of_medians(samples(1), samples(2, scale=1.3), 0.95)
    back = ratio_of_medians(samples(2, scale=1.3), samples(1), 0.95)
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert there.low > 1 > back.high
    assert not there.is_tie


@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
def test_the_unit_does_not_matter(scale):
    plain = ratio_of_medians(samples(1), samples(2), 0.95)
    scaled = ratio_of_medians(samples(1, scale=scale), samples(2, scale=scale), 0.95)
    assert scaled.ratio == pytest.approx(plain.ratio)
    assert scaled.low == pytest.approx(plain.low)


def test_equal_sides_are_a_tie_about_as_often_as_the_confidence_says():
    ties = sum(
        ratio_of_medians(samples(seed), samples(1000 + seed), 0.9).is_tie for seed in range(60)
    )
    assert 48 <= ties <= 60


def test_more_confidence_is_a_wider_interval():
    narrow, wide = (ratio_of_medians(samples(1), samples(2), share) for share in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.ratio < narrow.high < wide.high


def test_one_value_a_side_has_an_interval_of_no_width():
    found = ratio_of_medians([2.0], [3.0], 0.95)
    assert found.low == found.ratio == found.high == pytest.approx(1.5)


def test_what_whole_rounds_share_widens_the_interval():
    """Forty blocks are no forty proofs if each round of ten has an offset of its own."""
    random = np.random.default_rng(0)
    blocks = random.normal(0.0, 0.005, (4, 10))
    offsets = np.array([-0.03, -0.01, 0.01, 0.03])[:, None]
    alike, apart = (clustered((blocks + shift).tolist(), 0.95) for shift in (0.0, offsets))
    assert math.log(apart.high / apart.low) > 4 * math.log(alike.high / alike.low)
