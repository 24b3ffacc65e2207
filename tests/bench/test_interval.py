import math

import numpy as np
import pytest

from edgetiny.bench.interval import clustered, clustered_ratio, ratio_of_samples, reached_by


def samples(seed, *, n=40, scale=1.0, noise=0.03):
    return list(scale * np.random.default_rng(seed).lognormal(0.0, noise, n))


def test_the_same_samples_give_the_same_interval():
    assert ratio_of_samples(samples(1), samples(2), 0.95) == ratio_of_samples(
        samples(1), samples(2), 0.95
    )


def test_swapping_the_sides_inverts_the_ratio():
    there, _ = ratio_of_samples(samples(1), samples(2, scale=1.3), 0.95)
    back, _ = ratio_of_samples(samples(2, scale=1.3), samples(1), 0.95)
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert there.low > 1 > back.high
    assert not there.is_tie


@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
def test_the_unit_does_not_matter(scale):
    plain, _ = ratio_of_samples(samples(1), samples(2), 0.95)
    scaled, _ = ratio_of_samples(samples(1, scale=scale), samples(2, scale=scale), 0.95)
    assert scaled.ratio == pytest.approx(plain.ratio)
    assert scaled.low == pytest.approx(plain.low)


def test_equal_sides_are_a_tie_about_as_often_as_the_confidence_says():
    ties = sum(
        ratio_of_samples(samples(seed), samples(1000 + seed), 0.9)[0].is_tie for seed in range(60)
    )
    assert 48 <= ties <= 60


def test_more_confidence_is_a_wider_interval():
    narrow, wide = (ratio_of_samples(samples(1), samples(2), share)[0] for share in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.ratio < narrow.high < wide.high


def test_one_value_a_side_has_an_interval_of_no_width():
    found, reached = ratio_of_samples([2.0], [3.0], 0.95)
    assert found.low == found.ratio == found.high == pytest.approx(1.5)
    assert reached == 0.0


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 3), (3, 5), (4, 4), (6, 5), (8, 8)])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95])
def test_few_samples_hold_the_true_ratio_as_often_as_they_say(n, m, confidence):
    random = np.random.default_rng(n * 100 + m)
    n_trials, held = 2000, 0
    for _ in range(n_trials):
        base, other = (list(random.lognormal(0.0, 0.1, size)) for size in (n, m))
        found, reached = ratio_of_samples(base, other, confidence)
        held += found.low <= 1.0 <= found.high
    assert reached >= min(confidence, reached_by(n, m))
    error = 4 * math.sqrt(reached * (1 - reached) / n_trials)
    assert held / n_trials == pytest.approx(reached, abs=error + 1e-9)


def test_what_few_samples_reach():
    assert [reached_by(n, n) for n in (1, 3, 4)] == pytest.approx([0.0, 0.9, 1 - 2 / 70])


def test_rounds_of_two_times_are_two_clusters():
    """What the processes of a round share counts on both sides."""
    random = np.random.default_rng(0)
    blocks = np.exp(random.normal(0.0, 0.005, (2, 4, 10)))
    offsets = np.exp([-0.03, -0.01, 0.01, 0.03])[:, None]
    alike, apart = (
        clustered_ratio((blocks[0] * shift).tolist(), (2 * blocks[1] * shift).tolist(), 0.95)
        for shift in (1.0, offsets)
    )
    assert alike.ratio == pytest.approx(2.0, rel=0.01)
    assert math.log(apart.high / apart.low) > 4 * math.log(alike.high / alike.low)


def test_what_whole_rounds_share_widens_the_interval():
    """Forty blocks are no forty proofs if each round of ten has an offset of its own."""
    random = np.random.default_rng(0)
    blocks = random.normal(0.0, 0.005, (4, 10))
    offsets = np.array([-0.03, -0.01, 0.01, 0.03])[:, None]
    alike, apart = (clustered((blocks + shift).tolist(), 0.95) for shift in (0.0, offsets))
    assert math.log(apart.high / apart.low) > 4 * math.log(alike.high / alike.low)
