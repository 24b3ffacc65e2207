"""Settings that a random generator could not take."""

import pytest

from edgetiny.cli import main


def test_a_negative_seed_of_generate_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "model", "--seed", "-1"]) == 2
    assert "--seed must be at least 0, not -1" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--top-p", "0.9"], ["--seed", "1"]])
def test_a_flag_of_sampling_without_a_temperature_is_refused(
    capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    assert main(["generate", "model", *flags]) == 2
    assert "add --temperature" in capsys.readouterr().err
