from collections.abc import Callable

import pytest

from edgetiny.config.train import TrainConfig
from edgetiny.train.schedule import learning_rate

Settings = Callable[..., TrainConfig]


def rates(config: TrainConfig) -> list[float]:
    return [learning_rate(config, step) for step in range(config.n_steps)]


def test_it_rises_in_a_line_to_the_peak_and_falls_to_the_end(settings: Settings) -> None:
    config = settings(steps=100, learning_rate=1.0, warmup_fraction=0.1, final_lr_fraction=0.2)
    all_rates = rates(config)
    assert all_rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert max(all_rates) == all_rates[10] == 1.0
    falling = all_rates[10:]
    assert falling == sorted(set(falling), reverse=True)
    assert all_rates[-1] == pytest.approx(0.2)
    # The cosine is halfway down halfway through.
    assert all_rates[10 + 89 // 2] == pytest.approx(0.6, abs=0.01)


def test_without_warmup_it_starts_at_the_peak(settings: Settings) -> None:
    assert rates(settings(steps=5, learning_rate=1.0, warmup_fraction=0.0))[0] == 1.0


def test_a_final_share_of_one_keeps_the_peak(settings: Settings) -> None:
    config = settings(steps=9, learning_rate=3e-3, warmup_fraction=0.0, final_lr_fraction=1.0)
    assert rates(config) == pytest.approx([3e-3] * 9)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.5, 1.0])
def test_short_runs_have_rates_above_zero(
    settings: Settings, steps: int, warmup_fraction: float
) -> None:
    config = settings(steps=steps, learning_rate=1.0, warmup_fraction=warmup_fraction)
    assert all(0 < rate <= 1 for rate in rates(config))
