"""The scales of an int8 KV cache: fixed before the first token, so they come from text."""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 127


@dataclass(frozen=True, slots=True)
class KVScales:
    """What a stored byte is multiplied by: keys (after rotation) and values, per channel.

    key, value: each (layers, G, head_dim), fp32; G key/value heads. A byte is round(x / scale),
    cut off at -127 and 127. Zero is the scale of a channel that was zero throughout.
    """

    key: Tensor
    value: Tensor

    def per_layer(self) -> tuple[Tensor, Tensor]:
        """Return one scale a layer for keys and for values, each (layers,): the largest.

        One, if all channels were zero.
        """
        return _largest(self.key), _largest(self.value)


def _largest(scales: Tensor) -> Tensor:
    found = scales.flatten(1).amax(dim=1)
    return torch.where(found != 0, found, torch.ones_like(found))


def round_to_bytes(x: Tensor, scales: Tensor) -> Tensor:
    """Return x as a cache of bytes gives it back; scales broadcast to x. Zero gives zero."""
    divisors = torch.where(scales != 0, scales, torch.ones_like(scales))
    return (x / divisors).round_().clamp_(-LARGEST, LARGEST).mul_(scales)


# What is cut off: shares of the largest magnitude that the scale reaches.
_SHARES = tuple(1 - 0.03 * i for i in range(17))


def fit_scales(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Return the scales over `dim` of x that leave the least squared error; these axes are kept.

    x: (N, ...); `dim` has the axis of its N windows in it.
    Where x is zero throughout, so is the scale; where it is not finite, neither is the scale.
    """
    found = x.abs().amax(dim=dim, keepdim=True) / LARGEST
    largest = torch.where(found != 0, found, torch.ones_like(found))
    candidates = [largest * share for share in _SHARES]
    errors = [torch.zeros_like(largest) for _ in candidates]
    # A window at a time, so that what all scales read again stays in a core's cache: five times as
    # fast as all windows at once.
    for window in x.chunk(len(x)):
        for scales, error in zip(candidates, errors, strict=True):
            lost = round_to_bytes(window, scales).sub_(window)
            error += lost.square_().sum(dim=dim, keepdim=True)
    best, least = largest, torch.full_like(largest, torch.inf)
    for scales, error in zip(candidates, errors, strict=True):
        best = torch.where(error < least, scales, best)
        least = torch.minimum(error, least)
    return torch.where(found != 0, best, found)
