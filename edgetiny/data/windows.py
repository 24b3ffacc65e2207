"""Windows of a long text, spread evenly over it: what calibration reads."""

import numpy as np
import torch
from torch import Tensor

from edgetiny.data.shards import Tokens
from edgetiny.errors import DataError


def spread_windows(tokens: Tokens, n_tokens: int, length: int) -> Tensor:
    """Return about `n_tokens` of a flat run of ids as windows (N, length), int64, none twice.

    Fewer if there are fewer. Raises DataError if the text is shorter than one window.
    """
    n_there = len(tokens) // length
    if n_there < 1:
        raise DataError(
            f"the calibration text holds {len(tokens):,} tokens, less than the {length} of one"
            " window; give more text, or a smaller --context"
        )
    n_windows = min(n_there, -(-n_tokens // length))
    chosen = np.arange(n_windows, dtype=np.int64) * n_there // n_windows
    rows = tokens[chosen[:, None] * length + np.arange(length)]
    return torch.from_numpy(rows.astype(np.int64))
