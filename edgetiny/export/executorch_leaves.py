"""The decoder's leaves in the operations that XNNPACK takes over and ExecuTorch's own attention.

Everything that stands between two attentions is one XNNPACK delegate: no slice, no mean and no
reshape of unknown size may stand inside, for each of them would cut it in two.
Axes: B sequences, S new tokens, D hidden size, V vocabulary, H query heads, G key/value heads,
C cache capacity. Rows of the packed projection are heads: H of queries, G of keys, G of values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Each registers its operations when imported.
import torch.ao.quantization.fx._decomposed
import torch.nn.functional as F
import torchao.quantization.quant_primitives  # noqa: F401
from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
from torch import Tensor, nn

from edgetiny.checkpoint import ModelConfig
from edgetiny.model import Rotary, rotary_frequencies
from edgetiny.quantize import BlockWeight, ChannelWeight, Stored
from edgetiny.quantize.blocks import middle, unpack

_LARGEST = {4: 7, 8: 127}


class EtNorm(nn.Module):
    """RMSNorm whose mean is a product with a constant: XNNPACK has no mean of one axis."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight.float())
        self.register_buffer("mean", torch.full((1, len(weight)), 1 / len(weight)))
        self.register_buffer("eps", torch.tensor([eps]))

    def forward(self, x: Tensor) -> Tensor:
        square = F.linear(x * x, self.get_buffer("mean"), self.get_buffer("eps"))  # (B, S, 1)
        return x * torch.rsqrt(square) * self.get_buffer("weight")


class EtLinear(nn.Module):
    """A matrix product in fp32; a weight that is stored in fp16 is widened each time it is used."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def prepare(self, x: Tensor) -> Tensor:
        """Return `x` as `product` takes it."""
        return x

    def product(self, x: Tensor) -> Tensor:
        """Return the product of what `prepare` gave."""
        bias = None if self.bias is None else self.get_buffer("bias")
        return F.linear(x, self.get_buffer("weight").float(), bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.prepare(x))


class EtIntegerLinear(nn.Module):
    """A matrix product of integers: activations rounded to eight bits a token, as they come.

    values: (N, K) int8; scales: (N, K / group), each of a `group` of inputs, or (N,).
    columns: inputs that there are; K is more where the last block was filled up with zeros.
    """

    def __init__(
        self, values: Tensor, scales: Tensor, bias: Tensor | None, *, bits: int, columns: int
    ) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)
        self.register_buffer("zeros", torch.zeros_like(scales, dtype=torch.int32))
        self.register_buffer("bias", bias)
        self.columns = columns
        self.limits = (-_LARGEST[bits] - 1, _LARGEST[bits])

    def prepare(self, x: Tensor) -> Tensor:
        """Round activations (B, S, D); one rounding serves every product of the same input."""
        n_inputs = self.get_buffer("values").shape[1]
        if x.shape[-1] < n_inputs:
            x = F.pad(x, (0, n_inputs - x.shape[-1]))
        block = [1, 1, n_inputs]
        integers = torch.ops.quantized_decomposed
        scale, zero = torch.ops.torchao.choose_qparams_affine(
            x, "ASYMMETRIC", block, torch.int8, -128, 127, 1e-6, torch.float32, torch.int8
        )
        rounded = integers.quantize_per_token(x, scale, zero, -128, 127, torch.int8)
        whole: Tensor = integers.dequantize_per_token(
            rounded, scale, zero, -128, 127, torch.int8, torch.float32
        )
        return whole

    def product(self, x: Tensor) -> Tensor:
        """Return the product of what `prepare` gave."""
        # The operations of fewest parts, of those that XNNPACK knows: each is traced many times.
        integers = torch.ops.quantized_decomposed
        values, scales = self.get_buffer("values"), self.get_buffer("scales")
        zeros, low_high = self.get_buffer("zeros"), (*self.limits, torch.int8)
        if scales.ndim == 1:
            weight = integers.dequantize_per_channel(values, scales, zeros, 0, *low_high)
        else:
            group = values.shape[1] // scales.shape[1]
            weight = integers.dequantize_per_channel_group(
                values, scales, zeros, *low_high, group, torch.float32
            )
        bias = None if self.bias is None else self.get_buffer("bias")
        return F.linear(x, weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(self.prepare(x))


Linear = EtLinear | EtIntegerLinear


class EtTable(nn.Module):
    """The embedding, in plain operations that every ExecuTorch has.

    values: (V, D) of any type; scales: (V, 1), or None.
    """

    def __init__(self, values: Tensor, scales: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("values", values)
        self.register_buffer("scales", scales)
        self.has_scales = scales is not None

    def forward(self, tokens: Tensor) -> Tensor:
        x = F.embedding(tokens, self.get_buffer("values")).float()
        return x * F.embedding(tokens, self.get_buffer("scales")) if self.has_scales else x


class EtPackedTable(nn.Module):
    """The embedding of four bits, two to a byte, in ExecuTorch's own operation."""

    def __init__(self, weight: BlockWeight) -> None:
        super().__init__()
        low_first = weight.data.flatten(1)  # (V, n_blocks * block_size / 2)
        # The operation wants the first weight of a pair in the high half.
        self.register_buffer("values", (low_first << 4) | (low_first >> 4))
        self.register_buffer("scales", weight.scales.float())
        self.columns = weight.columns

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = torch.ops.quantized_decomposed.embedding_4bit(
            self.get_buffer("values"), self.get_buffer("scales"), None, -8, 7, tokens
        )
        return x[..., : self.columns] if x.shape[-1] > self.columns else x


class EtSwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)); `x` is rounded once for gate and up."""

    def __init__(
        self, gate: Linear, up: Linear, down: Linear, series: Sequence[tuple[Tensor, Tensor]] = ()
    ) -> None:
        """series: scale and shift (FFN,) of each term of the activation; SiLU if empty."""
        super().__init__()
        self.gate, self.up, self.down = gate, up, down
        self.n_terms = len(series)
        for term, (scale, shift) in enumerate(series):
            self.register_buffer(f"scale{term}", scale)
            self.register_buffer(f"shift{term}", shift)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate.prepare(x)
        out: Tensor = self.down(self.activated(self.gate.product(x)) * self.up.product(x))
        return out

    def activated(self, gate: Tensor) -> Tensor:
        """Return SiLU of the gate, or the sum of a series of them."""
        if not self.n_terms:
            return gate * torch.sigmoid(gate)
        terms = [
            gate * self.get_buffer(f"scale{term}") + self.get_buffer(f"shift{term}")
            for term in range(self.n_terms)
        ]
        total = terms[0] * torch.sigmoid(terms[0])
        for term in terms[1:]:
            total = total + term * torch.sigmoid(term)
        return total


class EtAttention(nn.Module):
    """Packed projections, rotation, cache and attention of one layer.

    qkv: (D) to ((H + 2 G) * head_dim).
    """

    def __init__(
        self, config: ModelConfig, qkv: Linear, out: Linear, batch: int, context: int
    ) -> None:
        super().__init__()
        self.qkv, self.out = qkv, out
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.register_buffer("turn", half_turn(config.head_dim))
        # One sequence keeps its heads side by side, as prompts of many tokens come. Of a batch
        # each head has its memory to itself: reading it is 1.2 to 1.8 times faster.
        rows = (1, self.kv_heads) if batch == 1 else (batch * self.kv_heads, 1)
        shape = (rows[0], context, rows[1], config.head_dim)
        self.register_buffer("keys", torch.zeros(shape))
        self.register_buffer("values", torch.zeros(shape))

    def forward(self, x: Tensor, rotary: Rotary, sequence: "EtSequence") -> Tensor:
        B, width = x.shape[0], self.heads * self.head_dim
        packed = self.qkv(x).view(B, -1, self.heads + 2 * self.kv_heads, self.head_dim)
        turned = F.linear(packed, self.get_buffer("turn"))
        packed = packed * sequence.cos + turned * sequence.sin  # (B, S, H + 2 G, head_dim)
        q, k, v = packed.split((self.heads, self.kv_heads, self.kv_heads), dim=2)
        out = self.attend(q, k, v, sequence)
        y: Tensor = self.out(out.reshape(B, -1, width))
        return y

    def attend(self, q: Tensor, k: Tensor, v: Tensor, sequence: "EtSequence") -> Tensor:
        """Append rotated k, v (B, S, G, head_dim) to the cache, and attend with q."""
        keys, values = self.get_buffer("keys"), self.get_buffer("values")
        if keys.shape[0] > 1:
            rows, reps = keys.shape[0], self.heads // self.kv_heads
            q = q.reshape(rows, 1, reps, self.head_dim)
            k, v = (each.reshape(rows, 1, 1, self.head_dim) for each in (k, v))
        torch.ops.llama.update_cache(k, keys, sequence.start)
        torch.ops.llama.update_cache(v, values, sequence.start)
        out: Tensor = torch.ops.llama.custom_sdpa(
            q, keys, values, sequence.start, None, 0.0, True, self.head_dim**-0.5
        )
        return out


class EtPlainAttention(EtAttention):
    """The same without custom operations, for runners that have none; it reads the whole cache."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, sequence: "EtSequence") -> Tensor:
        """Append rotated k, v (B, S, G, head_dim) to the cache, and attend with q."""
        B, reps = q.shape[0], self.heads // self.kv_heads
        keys, values = self.get_buffer("keys"), self.get_buffer("values")
        context = keys.shape[1]
        shape = (B, self.kv_heads, context, 1, self.head_dim)
        if B == 1:
            keys.index_copy_(1, sequence.places, k)
            values.index_copy_(1, sequence.places, v)
            keys, values = (x.transpose(1, 2)[:, :, :, None] for x in (keys, values))
        else:
            rows = (keys.shape[0], 1, 1, self.head_dim)
            keys.index_copy_(1, sequence.places, k.reshape(rows))
            values.index_copy_(1, sequence.places, v.reshape(rows))
            keys, values = keys.view(shape), values.view(shape)
        keys, values = (x.expand(-1, -1, -1, reps, -1).transpose(2, 3) for x in (keys, values))
        # (B, H, C, head_dim)
        keys, values = (x.reshape(B, self.heads, context, -1) for x in (keys, values))
        scores = q.transpose(1, 2) @ keys.transpose(2, 3) * self.head_dim**-0.5  # (B, H, S, C)
        weights = torch.softmax(scores + sequence.mask, dim=-1)
        return (weights @ values).transpose(1, 2)  # (B, S, H, head_dim)


@dataclass(slots=True)
class EtSequence:
    """Where the new tokens stand: the same place in every sequence of the batch.

    start: position of the first. cos, sin: (1, S, H + 2 G, head_dim), which leave values alone.
    places: (S,) positions; mask: (S, C), added to scores; both of the plain attention only.
    positions: (1, S); the model asks, the rotation of the packed heads does not.
    """

    start: int
    cos: Tensor
    sin: Tensor
    places: Tensor
    mask: Tensor
    positions: Tensor

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise AssertionError("the lowered attention reads the cache itself")


def half_turn(head_dim: int) -> Tensor:
    """Return the matrix (head_dim, head_dim) that makes (-second half, first half) of a head."""
    half = head_dim // 2
    turn = torch.zeros(head_dim, head_dim)
    turn[:half, half:] = -torch.eye(half)
    turn[half:, :half] = torch.eye(half)
    return turn


def rotary_tables(config: ModelConfig, context: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of every position: two of (context, head_dim), fp32."""
    angles = torch.arange(context).float()[:, None] * rotary_frequencies(config)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def linear(weight: Stored, bias: Tensor | None, *, rows: int | None = None) -> Linear:
    """Return the product with a stored matrix; with `rows`, zero rows are added to have as many."""
    bias = None if bias is None else bias.float()
    if isinstance(weight, Tensor):
        return EtLinear(weight, bias)
    if isinstance(weight, ChannelWeight):
        scales = _positive(weight.scales)
        return EtIntegerLinear(weight.data, scales, bias, bits=8, columns=weight.data.shape[1])
    values = (unpack(weight.data, weight.bits).to(torch.int16) - middle(weight.bits)).flatten(1)
    values, scales = values.to(torch.int8), _positive(weight.scales.float())
    if rows is not None and rows > len(values):
        values = F.pad(values, (0, 0, 0, rows - len(values)))
        scales = F.pad(scales, (0, 0, 0, rows - len(scales)), value=1.0)
    return EtIntegerLinear(values, scales, bias, bits=weight.bits, columns=weight.columns)


def table(weight: Stored) -> EtTable | EtPackedTable:
    """Return the embedding over a stored matrix (V, D)."""
    if isinstance(weight, Tensor):
        return EtTable(weight, None)
    if isinstance(weight, ChannelWeight):
        return EtTable(weight.data, weight.scales[:, None])
    return EtPackedTable(weight)


def stack(weights: list[Stored]) -> Stored:
    """Return matrices of the same inputs as one, row under row."""
    first = weights[0]
    if isinstance(first, Tensor):
        return torch.cat([each for each in weights if isinstance(each, Tensor)])
    if isinstance(first, ChannelWeight):
        channels = [each for each in weights if isinstance(each, ChannelWeight)]
        data, scales = [each.data for each in channels], [each.scales for each in channels]
        return ChannelWeight(torch.cat(data), torch.cat(scales))
    blocks = [each for each in weights if isinstance(each, BlockWeight)]
    data, scales = [each.data for each in blocks], [each.scales for each in blocks]
    return BlockWeight(torch.cat(data), torch.cat(scales), first.columns, first.bits)


def _positive(scales: Tensor) -> Tensor:
    """Return scales with which a row of zeros stays zero; XNNPACK refuses a scale of zero."""
    return torch.where(scales > 0, scales, torch.ones_like(scales))
