import statistics

import pytest

from edgetiny.measure import clock_ns, median, percentile, spread


def test_clock_never_runs_backwards() -> None:
    times = [clock_ns() for _ in range(1000)]
    assert times == sorted(times)


def test_median_agrees_with_the_standard_library() -> None:
    for values in ([3.0], [4.0, 1.0], [9.0, 2.0, 5.0], [1.0, 8.0, 3.0, 2.0]):
        assert median(values) == pytest.approx(statistics.median(values))


def test_percentile_interpolates_between_neighbours() -> None:
    values = [10.0, 0.0, 5.0]
    assert percentile(values, 0.0) == 0.0
    assert percentile(values, 25.0) == 2.5
    assert percentile(values, 100.0) == 10.0


def test_spread_is_ordered_and_counts() -> None:
    result = spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert 1.0 < result.p10 < result.median == 3.0 < result.p90 < 5.0
    assert result.count == 5


def test_no_values_have_no_median() -> None:
    with pytest.raises(ValueError, match="no values"):
        median([])
