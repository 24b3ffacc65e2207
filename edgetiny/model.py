"""The decoder: RMSNorm, rotary embedding, grouped-query attention, SwiGLU; LLaMA's names and sums.

Axes: B sequences, T (or K) tokens, D hidden size, V vocabulary, H query heads,
G key/value heads, C cache capacity.
Every arithmetic step that an export target has its own operation for is a leaf module
(RMSNorm, Linear, Attend), so that an exporter replaces leaves and leaves the rest alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetiny.checkpoint import Checkpoint, ModelConfig, RopeScaling
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


class RMSNorm(nn.Module):
    """Scale each vector to root mean square 1, in fp32, then by a learned weight."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, eps=self.eps).to(x.dtype) * self.weight


class Attend(nn.Module):
    """Rotate queries and keys, then attend over the sequence. A leaf for exporters."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: "Rotary", sequence: Sequence
    ) -> Tensor:
        """q: (B, T, H * head_dim), k and v: (B, T, G * head_dim). Returns (B, T, H * head_dim)."""
        B, T, _ = q.shape
        q, k, v = (x.view(B, T, -1, self.head_dim).transpose(1, 2) for x in (q, k, v))
        out = sequence.attend(
            self.layer, rotary.apply(q), rotary.apply(k), v
        )  # (B, H, T, head_dim)
        return out.transpose(1, 2).flatten(2)  # (B, T, H * head_dim)


class SelfAttention(nn.Module):
    """Projections around `Attend`: x (B, T, D) to (B, T, D)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        hidden = config.hidden_size
        q_width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        has_bias = config.bias != "none"
        self.q_proj = nn.Linear(hidden, q_width, bias=has_bias)
        self.k_proj = nn.Linear(hidden, kv_width, bias=has_bias)
        self.v_proj = nn.Linear(hidden, kv_width, bias=has_bias)
        self.o_proj = nn.Linear(q_width, hidden, bias=config.bias == "qkvo")
        self.attend = Attend(config, layer)

    def forward(self, x: Tensor, rotary: "Rotary", sequence: Sequence) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        out: Tensor = self.o_proj(self.attend(q, k, v, rotary, sequence))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)). Source: Shazeer 2020, "GLU Variants"."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """One pre-norm block: attention, then FFN, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, rotary: "Rotary", sequence: Sequence) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, sequence)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """Everything but the head, under the names that Hugging Face puts below `model.`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Transformer(nn.Module):
    """A LLaMA-compatible decoder whose parameters carry the Hugging Face names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, tokens: Tensor, sequence: Sequence | None = None) -> Tensor:
        """Return logits (B, T, V) of `tokens` (B, T), of a `Fresh` sequence if none is given."""
        logits: Tensor = self.lm_head(self.hidden(tokens, sequence))
        return logits

    def hidden(self, tokens: Tensor, sequence: Sequence | None = None) -> Tensor:
        """Return what the head reads: (B, T, D), after the last norm."""
        sequence = sequence or Fresh(tokens)
        x: Tensor = self.model.embed_tokens(tokens)
        rotary = Rotary(self.config, sequence.positions, x.dtype)
        for layer in self.model.layers:
            x = layer(x, rotary, sequence)
        x = self.model.norm(x)
        return x

    def tensors(self) -> dict[str, Tensor]:
        """Return the checkpoint's tensors: parameters by name, a tied head left out."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}


@dataclass(slots=True)
class Rotary:
    """The rotation of one forward pass: cosines and sines of its positions.

    Source: Su et al. 2021, "RoFormer"; halves rotated as in LLaMA's Hugging Face layout.
    """

    config: ModelConfig
    positions: Tensor  # (B or 1, T)
    dtype: torch.dtype
    cos: Tensor = field(init=False)  # (B or 1, 1, T, head_dim)
    sin: Tensor = field(init=False)

    def __post_init__(self) -> None:
        frequencies = rotary_frequencies(self.config).to(self.positions.device)
        angles = self.positions[:, None, :, None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        self.cos, self.sin = angles.cos().to(self.dtype), angles.sin().to(self.dtype)

    def apply(self, x: Tensor) -> Tensor:
        """Rotate x (B, heads, T, head_dim)."""
        first, second = x.chunk(2, dim=-1)
        return x * self.cos + torch.cat((-second, first), dim=-1) * self.sin


def rotary_frequencies(config: ModelConfig) -> Tensor:
    """Return the angle per position of each pair of channels: (head_dim / 2,), fp32.

    With `rope_scaling`, low frequencies are divided as in Llama 3.1.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    if config.rope_scaling is None:
        return frequencies
    return _llama3_frequencies(frequencies, config.rope_scaling)


def _llama3_frequencies(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Keep fast rotations, divide slow ones by the factor, and blend in between."""
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_position_embeddings / wavelengths
    spread = scaling.high_freq_factor - scaling.low_freq_factor
    kept = ((turns - scaling.low_freq_factor) / spread).clamp(0, 1)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def empty_model(config: ModelConfig) -> Transformer:
    """Return the module without memory behind its parameters (meta device)."""
    with torch.device("meta"):
        return Transformer(config)


def load_model(
    checkpoint: Checkpoint,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Transformer:
    """Return the checkpoint's model in evaluation mode, in `dtype` (as stored if None).

    The weights are copied out of the memory map, so the folder may change afterwards.
    """
    return build_model(checkpoint.config, checkpoint.state_dict(), dtype, device)


def build_model(
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Transformer:
    """Return the model of a checkpoint's tensors, which are copied one at a time."""
    model = empty_model(config)
    weights = {}
    for name in tensors:
        tensor = tensors[name]
        weights[name] = tensor.to(device=device, dtype=dtype or tensor.dtype, copy=True)
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    model.load_state_dict(weights, assign=True)
    if config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()
