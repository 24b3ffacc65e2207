"""The decoder: RMSNorm, rotary embedding, grouped-query attention, SwiGLU; LLaMA's names and sums.

Axes: B sequences, T (or K) tokens, D hidden size, V vocabulary, H query heads, G key/value heads.
Every arithmetic step that an export target has its own operation for is a leaf module
(RMSNorm, Linear, Attend), so that an exporter replaces leaves and leaves the rest alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgetiny.checkpoint import ModelConfig
from edgetiny.model.rotary import Rotary
from edgetiny.model.sequence import Fresh, Sequence


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
        self, q: Tensor, k: Tensor, v: Tensor, rotary: Rotary, sequence: Sequence
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

    def forward(self, x: Tensor, rotary: Rotary, sequence: Sequence) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        out: Tensor = self.o_proj(self.attend(q, k, v, rotary, sequence))
        return out


class Term(nn.Module):
    """silu(a x + b) with an a and a b for each FFN unit."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x * self.scale + self.shift)


class Shortcut(nn.Module):
    """expand(gelu(reduce(x))): a narrow way around attention.

    It reads what attention reads, after the norm: the residual stream grows over the layers.
    Source: Wang et al. 2023, "PanGu-pi", section 4.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reduce = nn.Linear(config.hidden_size, config.augmented_shortcut, bias=False)
        self.expand = nn.Linear(config.augmented_shortcut, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.expand(F.gelu(self.reduce(x)))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)). Source: Shazeer 2020, "GLU Variants".

    With a series, sum_i silu(a_i gate(x) + b_i) is in the place of silu(gate(x)).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        n_terms = config.series_activation if config.series_activation > 1 else 0
        self.series = nn.ModuleList(Term(config.intermediate_size) for _ in range(n_terms))
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(self.activated(self.gate_proj(x)) * self.up_proj(x))
        return out

    def activated(self, gate: Tensor) -> Tensor:
        """Return the activation of the gate (B, T, FFN)."""
        if not self.series:
            return F.silu(gate)
        first, *others = self.series
        total: Tensor = first(gate)
        for term in others:
            total = total + term(gate)
        return total


class Layer(nn.Module):
    """One pre-norm block: attention, then FFN, each added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config, layer)
        self.shortcut = Shortcut(config) if config.augmented_shortcut else None
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, rotary: Rotary, sequence: Sequence) -> Tensor:
        normed = self.input_layernorm(x)
        attended = self.self_attn(normed, rotary, sequence)
        if self.shortcut is not None:
            attended = attended + self.shortcut(normed)
        x = x + attended
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out

    def around_attention(self, x: Tensor) -> Tensor:
        """Return what attention's output is added to: x, with its shortcut where there is one."""
        if self.shortcut is None:
            return x
        out: Tensor = x + self.shortcut(self.input_layernorm(x))
        return out


class Decoder(nn.Module):
    """Everything but the head, under the names that Hugging Face puts below `model.`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # Not drawn at random: that loads a compiler on the meta device, 70 MB and seconds.
        table = torch.zeros(config.vocab_size, config.hidden_size)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, _weight=table)
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
