"""The output projection that makes the most of the merged heads: ridge regression on text.

Axes: B windows, T tokens, C = H * head_dim channels of all query heads, D hidden size.
"""

import torch
from torch import Tensor

from edgetiny.gqa.moments import check_finite

# Of the mean energy of a channel. What the text says little about stays as it was carried over.
_RIDGE = 1e-3


class OutputFit:
    """Normal equations, summed batch by batch in double precision.

    Raises CheckpointError naming the layer where what they come to is not finite.
    """

    def __init__(self, start: Tensor, layer: int) -> None:
        """start: (D, C), the projection that the ridge pulls towards. layer: to name in errors."""
        self._layer = layer
        self._start = start.detach().double()
        channels, hidden = start.shape[1], start.shape[0]
        self._read = torch.zeros(channels, channels, dtype=torch.float64)  # (C, C)
        self._cross = torch.zeros(channels, hidden, dtype=torch.float64)  # (C, D)
        self._energy = 0.0

    def add(self, read: Tensor, wanted: Tensor) -> None:
        """Take in what the projection reads, (B, T, C), and should make of it, (B, T, D)."""
        read, wanted = read.flatten(0, 1).double(), wanted.flatten(0, 1).double()
        self._read += read.T @ read
        self._cross += read.T @ wanted
        self._energy += float(wanted.square().sum())

    def solve(self) -> Tensor:
        """Return the fitted projection, (D, C) fp32; the start if there was nothing to read."""
        check_finite(self._layer, self._read, self._cross)
        energy = float(self._read.diagonal().mean())
        if energy == 0:
            return self._start.float()
        left = self._cross - self._read @ self._start.T  # (C, D), what the start leaves over
        ridged = self._read + _RIDGE * energy * torch.eye(len(self._read), dtype=torch.float64)
        change: Tensor = torch.linalg.solve(ridged, left)  # (C, D)
        fitted = (self._start + change.T).float()
        check_finite(self._layer, fitted)
        return fitted

    def error(self, weight: Tensor) -> float:
        """Return the squared error of a projection over the energy of what is wanted."""
        weight = weight.detach().double()
        fitted = (weight.T * (self._read @ weight.T)).sum() - 2 * (weight.T * self._cross).sum()
        left = fitted + self._energy
        check_finite(self._layer, left)
        return max(0.0, float(left)) / max(self._energy, 1e-300)
