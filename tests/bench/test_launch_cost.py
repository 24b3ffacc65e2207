import pytest

from edgetiny.bench.launch_cost import fit_launch_cost, fits, fits_table
from edgetiny.errors import ConfigError

LAYERS = [40, 30, 20, 15, 9]
BYTES = [2.8e9, 2.7e9, 2.5e9, 2.4e9, 2.2e9]


def times(tau_ms, bytes_per_s, noise=(0.0,) * 5):
    return [
        tau_ms / 1e3 * n + b / bytes_per_s + extra
        for n, b, extra in zip(LAYERS, BYTES, noise, strict=True)
    ]


def test_what_was_put_in_comes_out():
    fit = fit_launch_cost(LAYERS, BYTES, times(1.8, 800e9))
    assert fit.tau_ms == pytest.approx(1.8)
    assert fit.bytes_per_s == pytest.approx(800e9)
    assert fit.tau_error_ms == pytest.approx(0, abs=1e-6)
    assert fit.r_squared == pytest.approx(1)


def test_the_error_covers_what_noise_did():
    fit = fit_launch_cost(LAYERS, BYTES, times(1.8, 800e9, (1e-3, -1e-3, 5e-4, -1e-3, 1e-3)))
    assert 0 < abs(fit.tau_ms - 1.8) < 4 * fit.tau_error_ms < 1
    assert fit.bytes_per_s_error > 0
    assert fit.r_squared < 1


def test_the_papers_cost_of_depth_is_launches():
    """Table 2: 1.7 to 1.95 ms a layer whatever the width, and no bandwidth to speak of."""
    speeds = [12.81, 17.71, 29.49, 36.79, 57.53]
    fit = fit_launch_cost(LAYERS, BYTES, [1 / speed for speed in speeds])
    assert 1.5 < fit.tau_ms < 2.2
    assert fit.r_squared > 0.98


def test_bytes_that_cost_nothing_have_no_bandwidth():
    faster = [2e-3 * n - 1e-12 * b for n, b in zip(LAYERS, BYTES, strict=True)]
    fit = fit_launch_cost(LAYERS, BYTES, faster)
    assert fit.bytes_per_s is None
    assert fit.as_json()["gb_per_s"] == "no limit seen"


def test_fewer_than_three_depths_are_refused():
    with pytest.raises(ConfigError, match="at least 3 different depths, not 2"):
        fit_launch_cost([4, 4, 2], [1e9, 2e9, 3e9], [1.0, 2.0, 3.0])


def row(layers, n_bytes, seconds, **other):
    return {
        "valid": True,
        "runtime": "eager",
        "precision": "fp16",
        "n_batch": 20,
        "n_depth": 0,
        "device": "cpu",
        "n_threads": 2,
        "n_prompt": 2,
        "n_gen": 510,
        "protocol": {"repeats": 3},
        "model": {"num_hidden_layers": layers},
        "roofline": {"bytes_per_step": n_bytes, "measured_step_ms": 1e3 * seconds},
    } | other


def test_rows_are_fitted_by_engine_and_protocol():
    rows = [row(*each) for each in zip(LAYERS, BYTES, times(1.8, 800e9), strict=True)]
    rows += [row(*each, n_batch=1) for each in zip(LAYERS, BYTES, times(0.2, 800e9), strict=True)]
    rows += [row(4, 1e9, 1.0, runtime="graph")]
    found = fits(rows)
    assert {name: round(fit.tau_ms, 3) for name, fit in found.items()} == {
        "eager fp16 batch 20": 1.8,
        "eager fp16 batch 1": 0.2,
    }
    assert len(fits_table(rows)["cost_of_a_layer"]) == 2
    assert fits_table(rows[:2]) == {}


def test_a_fit_says_how_many_of_its_rows_are_not_valid():
    rows = [row(*each) for each in zip(LAYERS, BYTES, times(1.8, 800e9), strict=True)]
    assert fits_table(rows)["cost_of_a_layer"][0]["rows"] == len(LAYERS)
    rows[0]["valid"] = False
    assert "1 of them not valid" in fits_table(rows)["cost_of_a_layer"][0]["rows"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"device": "cuda:0"}, "cuda:0"),
        ({"n_threads": 1}, "1 threads"),
        ({"n_gen": 64}, "2+64 tokens"),
        ({"protocol": {"repeats": 5}}, "5 runs"),
    ],
)
def test_rows_of_another_device_threads_or_lengths_are_fitted_apart(other, words):
    rows = [row(*each) for each in zip(LAYERS, BYTES, times(1.8, 800e9), strict=True)]
    rows += [row(*each, **other) for each in zip(LAYERS, BYTES, times(0.2, 800e9), strict=True)]
    found = fits(rows)
    assert sorted(round(fit.tau_ms, 3) for fit in found.values()) == [0.2, 1.8]
    assert f"eager fp16 batch 20, {words}" in found
