"""The scales of an int8 KV cache: fixed before the first token, so they come from text."""

from dataclasses import dataclass

from torch import Tensor

LARGEST = 127


@dataclass(frozen=True, slots=True)
class KVScales:
    """What a stored byte is multiplied by: keys (after rotation) and values, per channel.

    key, value: each (layers, G, head_dim), fp32, positive; G key/value heads. A byte is
    round(x / scale), cut off at -127 and 127.
    """

    key: Tensor
    value: Tensor

    def per_layer(self) -> tuple[Tensor, Tensor]:
        """Return one scale a layer for keys and for values, each (layers,): the largest."""
        return self.key.flatten(1).amax(dim=1), self.value.flatten(1).amax(dim=1)
