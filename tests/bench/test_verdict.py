"""The gate's decision on samples whose truth is known: planted shifts, noise, drift, neighbours."""

import math

import numpy as np
import pytest

from edgetiny.bench.verdict import Block, block_of, judge

ORDER = ("base", "again", "head", "head", "again", "base")
SETTINGS = {"margin": 0.05, "noise_factor": 3.0, "confidence": 0.99}


def rounds_of(
    seed,
    *,
    slowdown=1.0,
    n_rounds=3,
    n_blocks=6,
    step_noise=0.03,
    process=0.004,
    drift=0.0,
    busy=0.0,
):
    """Return blocks of simulated steps of 3 ms.

    process: spread between processes of one side. drift: growth of a step over one sample.
    busy: share of steps that a neighbour makes up to five times as long.
    """
    random = np.random.default_rng(seed)
    rounds = []
    time = 0
    for _ in range(n_rounds):
        offset = {side: math.exp(random.normal(0.0, process)) for side in dict.fromkeys(ORDER)}
        offset["head"] *= slowdown
        blocks = []
        for _ in range(n_blocks):
            block = []
            for side in ORDER:
                time += 1
                step = 3e6 * offset[side] * (1.0 + drift * time)
                step_ns = step * random.lognormal(0.0, step_noise, 8)
                hit = random.random(8) < busy
                step_ns[hit] *= random.uniform(1.2, 5.0, hit.sum())
                block.append((side, [int(each) for each in step_ns]))
            blocks.append(block_of(block))
        rounds.append(blocks)
    return rounds


def verdicts(n=20, **settings):
    return [judge(rounds_of(seed, **settings), **SETTINGS).verdict for seed in range(n)]


@pytest.mark.parametrize("busy", [0.0, 0.3])
def test_no_change_is_no_regression_and_mostly_the_same(busy):
    found = verdicts(busy=busy)
    assert found.count("regress") == found.count("improve") == 0
    assert found.count("inconclusive") <= 5


@pytest.mark.parametrize("busy", [0.0, 0.3])
def test_fifteen_percent_is_found(busy):
    assert verdicts(slowdown=1.15, busy=busy).count("regress") >= 18


@pytest.mark.parametrize("busy", [0.0, 0.3])
@pytest.mark.parametrize("process", [0.0, 0.01, 0.02])
def test_eight_percent_is_never_called_the_same(busy, process):
    found = verdicts(slowdown=1.08, busy=busy, process=process)
    assert set(found) <= {"regress", "inconclusive"}


def test_faster_is_an_improvement():
    assert verdicts(slowdown=1 / 1.15).count("improve") >= 18


def test_drift_cancels_in_mirrored_blocks():
    """A machine that becomes a third slower over the run changes no verdict."""
    found = verdicts(drift=0.33 / 150)
    assert found.count("regress") == found.count("improve") == 0
    found = [judge(rounds_of(seed, drift=0.33 / 150), **SETTINGS) for seed in range(20)]
    assert np.mean([abs(math.log(each.change.ratio)) for each in found]) < 0.01


def test_noise_raises_what_counts():
    quiet, noisy = (judge(rounds_of(3, process=spread), **SETTINGS) for spread in (0.0, 0.05))
    assert quiet.threshold == SETTINGS["margin"]
    assert noisy.noise > quiet.noise
    assert noisy.threshold == pytest.approx(3 * noisy.noise)


def test_too_noisy_is_inconclusive_and_not_the_same():
    found = verdicts(step_noise=0.05, process=0.15)
    assert found.count("inconclusive") >= 15


def test_one_bad_round_of_three_proves_nothing():
    rounds = rounds_of(5)
    rounds[1] = [Block(block.base, block.again, 1.4 * block.head) for block in rounds[1]]
    assert judge(rounds, **SETTINGS).verdict == "inconclusive"


def test_a_block_averages_both_samples_of_a_side():
    block = block_of(
        [
            ("base", [1_000_000] * 4),
            ("again", [2_000_000] * 4),
            ("head", [3_000_000] * 4),
            ("head", [3_000_000] * 4),
            ("again", [8_000_000] * 4),
            ("base", [4_000_000] * 4),
        ]
    )
    assert (block.base, block.again, block.head) == pytest.approx((2.0, 4.0, 3.0))
    assert block.log_noise == pytest.approx(math.log(2))
    assert block.log_change == pytest.approx(math.log(3 / math.sqrt(8)))
