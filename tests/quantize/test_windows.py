import numpy as np
import pytest

from edgetiny.errors import DataError
from edgetiny.quantize import calibration_windows


def test_windows_are_spread_and_begin_with_the_start_token():
    tokens = np.arange(1000, dtype=np.uint16)
    windows = calibration_windows(tokens, 7, n_tokens=64, window=16)
    assert windows.shape == (4, 16)
    assert windows[:, 0].tolist() == [7] * 4
    assert windows[:, 1].tolist() == [1, 241, 497, 737]


def test_short_text_gives_what_there_is():
    tokens = np.arange(50, dtype=np.uint16)
    assert calibration_windows(tokens, None, n_tokens=10_000, window=16).shape == (3, 16)


def test_text_shorter_than_a_window_is_refused():
    with pytest.raises(DataError, match="holds 9 tokens, less than the 16 of one window"):
        calibration_windows(np.arange(9, dtype=np.uint16), 1, window=16)
