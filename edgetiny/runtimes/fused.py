"""The decoder in few kernels: joined projections, a static cache, no shape that depends on data.

The same sums as `edgetiny.model`, arranged so that one decode step launches as little as can be:
query, key and value are one product, gate and up another, and the residual is added where the
next norm reads it. The reference stays `Transformer`; tests hold this one to its logits.
Axes: B sequences, T (or K) tokens, D hidden size, V vocabulary, H query heads, G key/value heads,
C cache capacity.
"""

from collections.abc import Mapping
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetiny.checkpoint import ModelConfig
from edgetiny.errors import ConfigError
from edgetiny.model import rotary_frequencies
from edgetiny.quantize import ZERO_POINT, quantize_int8

# torch's packed product on a CPU takes its time per row of x, the widened one per weight: measured
# at 2048 x 4096 in bf16, 8 rows 2.7 against 4.0 ms, 16 rows 5.9 against 4.9 ms.
_PACKED_ROWS = 8
# It ends the process where K is no multiple of its vector length (seen with torch 2.13 at K = 44).
_PACKED_COLUMNS = 32


class Place(Protocol):
    """Where the tokens of one pass stand: how they are rotated, and what they attend to."""

    def attend(self, qkv: Tensor, n_heads: int, keys: Tensor, values: Tensor) -> Tensor:
        """Store the new keys and values in the cache; return (B, H, T, head_dim).

        qkv: (B, H + 2G, T, head_dim), not rotated; n_heads: H. keys, values: (B, G, C, head_dim).
        """


class Dense(nn.Module):
    """x W^T + bias in the type of the weights."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Int8(nn.Module):
    """x W^T + bias with a byte per weight and one scale per row of W, widened as it is read.

    Rows are rounded as `quantize_int8` does with blocks as long as a row.
    """

    weight: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        """weight: (N, K) of any floating type. dtype: of x and of the result."""
        super().__init__()
        rounded = quantize_int8(weight.float(), weight.shape[1])
        signed = (rounded.data[:, 0].to(torch.int16) - ZERO_POINT).to(torch.int8)
        self.register_buffer("weight", signed)  # (N, K)
        self.register_buffer("scales", rounded.scales[:, 0].to(dtype))  # (N,)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)  # (B * T, K)
        if x.is_cpu and len(rows) <= _PACKED_ROWS and rows.shape[1] % _PACKED_COLUMNS == 0:
            out: Tensor = torch.ops.aten._weight_int8pack_mm(rows, self.weight, self.scales)
        else:
            out = F.linear(rows, self.weight.to(x.dtype)) * self.scales
        out = out.view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias


class Block(nn.Module):
    """One layer. It takes and gives the residual stream as a sum not yet added up."""

    attention_norm: Tensor
    ffn_norm: Tensor

    def __init__(
        self,
        config: ModelConfig,
        qkv: nn.Module,
        out: nn.Module,
        gate_up: nn.Module,
        down: nn.Module,
        norms: tuple[Tensor, Tensor],
    ) -> None:
        super().__init__()
        self.qkv, self.out, self.gate_up, self.down = qkv, out, gate_up, down
        self.register_buffer("attention_norm", norms[0])
        self.register_buffer("ffn_norm", norms[1])
        self.n_heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.eps = config.rms_norm_eps

    def forward(
        self, x: Tensor, delta: Tensor, keys: Tensor, values: Tensor, place: Place
    ) -> tuple[Tensor, Tensor]:
        """Return (x, delta), whose sum is the residual stream (B, T, D) after this layer."""
        B, T, _ = x.shape
        x = x + delta
        qkv = self.qkv(rms_norm(x, self.attention_norm, self.eps))
        qkv = qkv.view(B, T, -1, self.head_dim).transpose(1, 2)  # (B, H + 2G, T, head_dim)
        attended = place.attend(qkv, self.n_heads, keys, values)  # (B, H, T, head_dim)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(rms_norm(x, self.ffn_norm, self.eps)).chunk(2, dim=-1)
        return x, self.down(F.silu(gate) * up)


class FusedDecoder(nn.Module):
    """The whole model over a static cache; `forward` gives what the head reads, `head` logits."""

    norm: Tensor

    def __init__(
        self,
        config: ModelConfig,
        tensors: Mapping[str, Tensor],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        is_int8: bool = False,
    ) -> None:
        """Join and, if asked, round a checkpoint's tensors, each read once.

        dtype: of activations, and of the weights unless `is_int8`.
        Raises ConfigError for a model with options of PanGu-pi.
        """
        super().__init__()
        if not config.is_plain:
            raise ConfigError(
                "the captured decoder has no series activation and no augmented shortcut; use the"
                " eager runtime, or export the model"
            )
        self.config = config
        self._dtype, self._device, self._is_int8 = dtype, device, is_int8
        self.embedding = self._matrix(tensors, "model.embed_tokens")
        self.blocks = nn.ModuleList(
            self._block(tensors, f"model.layers.{i}") for i in range(config.num_hidden_layers)
        )
        self.register_buffer("norm", self._placed(tensors["model.norm.weight"]))
        self.lm_head = (
            self.embedding if config.tie_word_embeddings else self._matrix(tensors, "lm_head")
        )

    def forward(
        self, tokens: Tensor, keys: list[Tensor], values: list[Tensor], place: Place
    ) -> Tensor:
        """Return the hidden states (B, T, D) after the last norm; keys and values per layer."""
        x, delta = self.embed(tokens)
        for block, layer_keys, layer_values in zip(self.blocks, keys, values, strict=True):
            x, delta = block(x, delta, layer_keys, layer_values, place)
        return self.last_norm(x, delta)

    def layers(self) -> list[Block]:
        """Return the layers in order."""
        return cast(list[Block], list(self.blocks))

    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows (B, T, D) of the embedding table, and zeros to add to them."""
        rows = F.embedding(tokens, self.embedding.weight)
        if isinstance(self.embedding, Int8):
            rows = rows.to(self._dtype) * F.embedding(tokens, self.embedding.scales[:, None])
        return rows, torch.zeros_like(rows)

    def last_norm(self, x: Tensor, delta: Tensor) -> Tensor:
        """Return what the head reads (B, T, D) of the last layer's two results."""
        return rms_norm(x + delta, self.norm, self.config.rms_norm_eps)

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits (..., V) of hidden states (..., D)."""
        logits: Tensor = self.lm_head(hidden)
        return logits

    def _block(self, tensors: Mapping[str, Tensor], layer: str) -> Block:
        attention, mlp = f"{layer}.self_attn", f"{layer}.mlp"
        return Block(
            self.config,
            self._matrix(tensors, *(f"{attention}.{name}_proj" for name in "qkv")),
            self._matrix(tensors, f"{attention}.o_proj"),
            self._matrix(tensors, f"{mlp}.gate_proj", f"{mlp}.up_proj"),
            self._matrix(tensors, f"{mlp}.down_proj"),
            (
                self._placed(tensors[f"{layer}.input_layernorm.weight"]),
                self._placed(tensors[f"{layer}.post_attention_layernorm.weight"]),
            ),
        )

    def _matrix(self, tensors: Mapping[str, Tensor], *names: str) -> Dense | Int8:
        """Return one product for several projections of the same input, one below the other."""
        biases = [tensors[f"{name}.bias"] for name in names if f"{name}.bias" in tensors]
        bias = self._placed(torch.cat(biases)) if biases else None
        weight = torch.cat([tensors[f"{name}.weight"] for name in names])
        if self._is_int8:
            return Int8(weight, bias, self._dtype).to(self._device)
        return Dense(self._placed(weight), bias)

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self._device, dtype=self._dtype, copy=True)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x scaled to root mean square 1 in fp32, then by the weight in x's type."""
    return F.rms_norm(x.float(), weight.shape, eps=eps).to(x.dtype) * weight


def rotation_table(config: ModelConfig, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosines and signed sines (length, head_dim) of every position, for `rotated`."""
    angles = torch.arange(length)[:, None].float() * rotary_frequencies(config)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)


def rotated(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Rotate x (B, heads, T, head_dim), as `edgetiny.model.Rotary` does, in three operations."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, dims=-1), signed_sin)


class Prompt:
    """New sequences from position 0: causal attention among the given tokens alone."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        """cos, sin: the rotation table (C, head_dim), cut to the T tokens of the prompt."""
        self.cos, self.sin = cos, sin

    def attend(self, qkv: Tensor, n_heads: int, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = _split(qkv, n_heads, self.cos, self.sin)
        keys[:, :, : k.shape[2]] = k
        values[:, :, : v.shape[2]] = v
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
        )


class Continuation:
    """Tokens after what the cache holds: attention over a fixed prefix of it, masked by position.

    Shapes depend on batch, K and `end` only, never on how long the sequences are.
    """

    def __init__(self, positions: Tensor, end: int, cos: Tensor, sin: Tensor) -> None:
        """positions: (B, K) on the device, all below `end`. cos, sin: the whole rotation table."""
        self.cos = F.embedding(positions, cos)[:, None]  # (B, 1, K, head_dim)
        self.sin = F.embedding(positions, sin)[:, None]
        self.end = end
        self.rows = torch.arange(len(positions), device=positions.device)[
            :, None, None
        ]  # (B, 1, 1)
        self.slots = positions[:, None]  # (B, 1, K)
        unseen = torch.arange(end, device=positions.device) > positions[:, :, None]  # (B, K, end)
        # To be added, as kernels take it: a mask of truth values would be converted in every layer.
        mask = torch.zeros(unseen.shape, dtype=cos.dtype, device=cos.device)
        self.mask = mask.masked_fill_(unseen, -torch.inf)[:, None]  # (B, 1, K, end)

    def attend(self, qkv: Tensor, n_heads: int, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = _split(qkv, n_heads, self.cos, self.sin)
        heads = torch.arange(k.shape[1], device=k.device)[:, None]  # (G, 1)
        # Not scatter_: torch.compile would copy the whole cache for it.
        keys.index_put_((self.rows, heads, self.slots), k)
        values.index_put_((self.rows, heads, self.slots), v)
        seen_keys, seen_values = keys[:, :, : self.end], values[:, :, : self.end]
        if q.is_cpu and q.shape[2] == 1:
            return _attend_once(q, seen_keys, seen_values, self.mask)
        return F.scaled_dot_product_attention(
            q, seen_keys, seen_values, attn_mask=self.mask, enable_gqa=q.shape[1] != k.shape[1]
        )


def _attend_once(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attend with one token (B, H, 1, head_dim) to (B, G, end, head_dim) in plain products.

    torch's attention for the CPU is made for many tokens: 20 x 10 heads of 32 over 128 tokens took
    it 0.30 ms in fp32 and 1.34 ms in bf16, this 0.22 and 0.42 ms.
    """
    grouped = q.view(q.shape[0], keys.shape[1], -1, q.shape[3])  # (B, G, H / G, head_dim)
    scores = grouped @ keys.transpose(2, 3) * q.shape[3] ** -0.5 + mask  # (B, G, H / G, end)
    weights = scores.float().softmax(dim=-1).to(values.dtype)
    out: Tensor = weights @ values  # (B, G, H / G, head_dim)
    return out.view(q.shape)


def _split(qkv: Tensor, n_heads: int, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotated q (B, H, T, head_dim), rotated k and v (B, G, T, head_dim)."""
    n_kv_heads = (qkv.shape[1] - n_heads) // 2
    qk = rotated(qkv[:, : n_heads + n_kv_heads], cos, sin)
    return qk[:, :n_heads], qk[:, n_heads:], qkv[:, n_heads + n_kv_heads :]
