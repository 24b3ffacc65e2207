"""Settings that a random generator could not take."""

import pytest

from edgetiny.cli import main


def test_a_negative_seed_of_generate_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "model", "--seed", "-1"]) == 2
    assert "--seed must be at least 0, not -1" in capsys.readouterr().err
