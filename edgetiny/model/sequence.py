"""Where the tokens of a forward pass stand, and what they may look at: with a KV cache or without.

Axes: B sequences, T (or K) tokens, H query heads, G key/value heads, C cache capacity.
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.errors import ConfigError


class Sequence(Protocol):
    """Where the tokens of one forward pass stand, and what they may look at."""

    positions: Tensor  # (B or 1, T), int64

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return softmax(q k^T) v of rotated q (B, H, T, head_dim), k, v (B, G, T, head_dim)."""


class Fresh:
    """A forward pass without a cache: each token sees the tokens before it in `tokens`."""

    def __init__(self, tokens: Tensor) -> None:
        self.positions = torch.arange(tokens.shape[1], device=tokens.device)[None]  # (1, T)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if v.dtype == torch.bfloat16 and v.device.type == "cpu" and torch.is_grad_enabled():
            # PyTorch's backward pass of attention takes a CPU twice as long in bf16 as in fp32.
            with torch.autocast("cpu", enabled=False):
                return _causal(q.float(), k.float(), v.float()).to(v.dtype)
        return _causal(q, k, v)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
    )


class KVCache:
    """Keys and values of `batch` sequences in fixed memory, written in place.

    lengths: (B,) tokens held per sequence, on the CPU. Sequences may differ in length;
    what stands beyond a sequence's length is never looked at.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if capacity > config.max_position_embeddings:
            raise ConfigError(
                f"a context of {capacity} tokens is beyond the model's"
                f" max_position_embeddings of {config.max_position_embeddings}"
            )
        shape = (
            batch,
            config.num_key_value_heads,
            capacity,
            config.head_dim,
        )  # (B, G, C, head_dim)
        n_layers = config.num_hidden_layers
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(n_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(n_layers)]
        self.lengths = torch.zeros(batch, dtype=torch.int64)
        self.capacity = capacity

    def append(self, tokens: Tensor, counts: Tensor | None = None) -> "Appended":
        """Make room for `tokens` (B, K), of which the first `counts` (B,) are real.

        Returns the sequence to run the forward pass with.
        Raises ConfigError if a sequence would grow beyond the capacity.
        """
        n_new = tokens.shape[1]
        start = self.lengths
        # Padding is written too, then overwritten: a row needs room for all of K.
        if int(start.max()) + n_new > self.capacity:
            raise ConfigError(
                f"the KV cache holds {self.capacity} tokens; {int(start.max())} are used and"
                f" {n_new} more were asked for"
            )
        self.lengths = start + (n_new if counts is None else counts)
        return Appended(self, start, n_new, tokens.device)

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` tokens of every sequence."""
        self.lengths = self.lengths.clamp(max=length)


class Appended:
    """A forward pass over tokens that were appended to a cache."""

    def __init__(self, cache: KVCache, start: Tensor, n_new: int, device: torch.device) -> None:
        self._cache = cache
        self._end = int(start.max()) + n_new
        self._is_uniform = bool((start == start[0]).all())
        self._rows = torch.arange(len(start), device=device)[:, None]  # (B, 1)
        offsets = torch.arange(n_new, device=device)
        self.positions = start.to(device)[:, None] + offsets  # (B, K)
        seen = torch.arange(self._end, device=device)
        # One new token per equally long sequence sees everything: no mask, and a faster kernel.
        self._mask: Tensor | None = None
        if n_new > 1 or not self._is_uniform:
            self._mask = (seen <= self.positions[:, :, None])[:, None]  # (B, 1, K, end)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._cache.keys[layer], self._cache.values[layer]  # (B, G, C, head_dim)
        self._store(keys, k)
        self._store(values, v)
        return F.scaled_dot_product_attention(
            q,
            keys[:, :, : self._end],
            values[:, :, : self._end],
            attn_mask=self._mask,
            enable_gqa=q.shape[1] != k.shape[1],
        )

    def _store(self, buffer: Tensor, new: Tensor) -> None:
        if self._is_uniform:
            buffer[:, :, self._end - new.shape[2] : self._end] = new
        else:
            buffer[self._rows, :, self.positions] = new.transpose(1, 2)  # (B, K, G, head_dim)
