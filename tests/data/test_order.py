import numpy as np
import pytest

from edgetiny.data import SampleOrder
from edgetiny.errors import DataError

SIZES = [*range(1, 40), 63, 64, 65, 99, 100, 101, 1000, 4095, 4096, 4097, 65_537]


@pytest.mark.parametrize("n_samples", SIZES)
def test_each_epoch_visits_every_sample_once(n_samples: int) -> None:
    order = SampleOrder(n_samples, seed=3)
    for epoch in (0, 1, 7):
        epoch_indices = order.indices(epoch * n_samples, n_samples)
        assert np.array_equal(np.sort(epoch_indices), np.arange(n_samples))


def test_epochs_and_seeds_differ() -> None:
    n_samples = 1000
    first = SampleOrder(n_samples, seed=0).indices(0, n_samples)
    second_epoch = SampleOrder(n_samples, seed=0).indices(n_samples, n_samples)
    other_seed = SampleOrder(n_samples, seed=1).indices(0, n_samples)
    # Two independent permutations agree in about one place.
    for other in (second_epoch, other_seed, np.arange(n_samples)):
        assert (first == other).sum() < 10


def test_any_cutting_of_positions_gives_the_same_order() -> None:
    whole = SampleOrder(37, seed=5).indices(0, 200)
    rng = np.random.default_rng(0)
    position, parts = 0, []
    while position < 200:
        count = min(int(rng.integers(0, 60)), 200 - position)
        parts.append(SampleOrder(37, seed=5).indices(position, count))
        position += count
    assert np.array_equal(np.concatenate(parts), whole)


def test_far_positions_need_no_history() -> None:
    position = 10**15 + 7
    far = SampleOrder(10**9 + 7, seed=1).indices(position, 5)
    assert np.array_equal(far[2:], SampleOrder(10**9 + 7, seed=1).indices(position + 2, 3))


def test_order_looks_random() -> None:
    n_samples = 10_000
    order = SampleOrder(n_samples, seed=0).indices(0, n_samples)
    # Of a random permutation: neighbours are uncorrelated, and a quarter of the samples of the
    # first half come from the first quarter's half. Bounds are five standard deviations.
    correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
    assert abs(correlation) < 5 / n_samples**0.5
    low_in_first_half = (order[: n_samples // 2] < n_samples // 2).mean()
    assert abs(low_in_first_half - 0.5) < 5 * 0.5 / n_samples**0.5


def test_every_small_permutation_occurs() -> None:
    seen = {tuple(SampleOrder(3, seed).indices(0, 3)) for seed in range(200)}
    assert len(seen) == 6


def test_negative_and_huge_seeds_are_seeds_too() -> None:
    orders = [SampleOrder(50, seed).indices(0, 50) for seed in (-1, 0, 2**63, 2**64 - 2)]
    assert len({tuple(order) for order in orders}) == 4


def test_no_samples_is_an_error() -> None:
    with pytest.raises(DataError, match="shorter than one training sample"):
        SampleOrder(0, seed=0)
