"""The text that calibration reads: windows of it, spread evenly.

Axes: N windows, T tokens of each.
"""

from torch import Tensor

from edgetiny.data.shards import Tokens
from edgetiny.data.windows import spread_windows

CALIBRATION_TOKENS = 16_384
WINDOW_TOKENS = 512


def calibration_windows(
    tokens: Tokens,
    start: int | None,
    *,
    n_tokens: int = CALIBRATION_TOKENS,
    window: int = WINDOW_TOKENS,
) -> Tensor:
    """Return about `n_tokens` of a flat run of ids as windows (N, T), int64, none twice.

    tokens: of training text, or of any text that will not score the result. The windows are
    spread evenly over it; fewer if it has fewer.
    start: the id before each document, which takes the place of each window's first: models
    store much in it, and it leads every sequence that is decoded. None if there is none.
    Raises DataError if it is shorter than one window.
    """
    rows = spread_windows(tokens, n_tokens, window)
    if start is not None:
        rows[:, 0] = start
    return rows
