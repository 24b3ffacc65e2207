"""The output projection that makes the most of the merged heads: ridge regression on text.

Axes: B windows, T tokens, C = H * head_dim channels of all query heads, D hidden size.
"""

import torch
from torch import Tensor

# Of the mean energy of a channel. What the text says little about stays as it was carried over.
_RIDGE = 1e-3


class OutputFit:
    """Normal equations, summed batch by batch in double precision."""

    def __init__(self, start: Tensor) -> None:
        """start: (D, C), the projection that the ridge pulls towards."""
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
        """Return the fitted projection, (D, C) fp32."""
        left = self._cross - self._read @ self._start.T  # (C, D), what the start leaves over
        ridge = _RIDGE * float(self._read.diagonal().mean())
        ridged = self._read + ridge * torch.eye(len(self._read), dtype=torch.float64)
        change: Tensor = torch.linalg.solve(ridged, left)  # (C, D)
        return (self._start + change.T).float()

    def error(self, weight: Tensor) -> float:
        """Return the squared error of a projection over the energy of what is wanted."""
        weight = weight.detach().double()
        fitted = (weight.T * (self._read @ weight.T)).sum() - 2 * (weight.T * self._cross).sum()
        return max(0.0, float(fitted) + self._energy) / max(self._energy, 1e-300)
