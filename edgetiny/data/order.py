"""The order of training samples: a permutation per epoch that needs no state and no memory."""

import math

import numpy as np
from numpy.typing import NDArray

from edgetiny.errors import DataError

_ROUNDS = 8


class SampleOrder:
    """A fresh permutation of `n_samples` for every epoch, computed position by position.

    A position is one integer that counts samples since the start of training, so that any
    number of processes agree on the order and a resumed run goes on exactly where it stopped.
    The permutation is a Feistel network over (row, column) of a rectangle of at least
    `n_samples` cells; a cell beyond the last sample is sent through again until it lands on one.
    Source: Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains".
    """

    def __init__(self, n_samples: int, seed: int) -> None:
        if n_samples < 1:
            raise DataError("the text is shorter than one training sample; give more text")
        self.n_samples = n_samples
        self.seed = seed
        self._n_columns = math.isqrt(n_samples - 1) + 1
        self._n_rows = -(-n_samples // self._n_columns)

    def indices(self, position: int, count: int) -> NDArray[np.int64]:
        """Return the samples at `count` positions from `position` on, as (count,)."""
        positions = np.arange(position, position + count, dtype=np.uint64)
        epochs, cells = np.divmod(positions, np.uint64(self.n_samples))
        samples = self._permute(cells, epochs)
        while (beyond := samples >= self.n_samples).any():
            samples[beyond] = self._permute(samples[beyond], epochs[beyond])
        return samples.astype(np.int64)

    def _permute(self, cells: NDArray[np.uint64], epochs: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Permute the cells of the rectangle, each by the permutation of its epoch."""
        n_rows, n_columns = np.uint64(self._n_rows), np.uint64(self._n_columns)
        rows, columns = np.divmod(cells, n_columns)
        keys = _mix(_mix(np.full_like(epochs, self.seed % (1 << 64))) + epochs)
        for round_number in range(0, _ROUNDS, 2):
            rows = (rows + _mix(_mix(keys + np.uint64(round_number)) + columns)) % n_rows
            columns = (columns + _mix(_mix(keys + np.uint64(round_number + 1)) + rows)) % n_columns
        return rows * n_columns + columns


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64-bit values to 64 bits each. Source: Steele et al. 2014, SplitMix64's finaliser."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
