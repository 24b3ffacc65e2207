"""The decoder as a graph of onnxruntime's fused operations, written node by node.

Ten nodes a layer. It is not traced from the model: projections that share an input are one
matrix, and a residual sum belongs to the norm behind it, which no swap of single modules can say.

Axes: B sequences, T new tokens, D hidden size, V vocabulary, H query heads, G key/value heads,
C cache capacity, R rows of logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from edgetiny.checkpoint import ModelConfig
from edgetiny.export.heads import pad_rows, rotary_tables
from edgetiny.export.onnx_graph import GraphBuilder
from edgetiny.export.onnx_products import Matrix, concatenate, put
from edgetiny.export.plan import Plan
from edgetiny.forecast import padded_head_dim
from edgetiny.quantize import Stored, Weights

KV_TYPES = {"fp32": ir.DataType.FLOAT, "fp16": ir.DataType.FLOAT16, "int8": ir.DataType.INT8}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the new tokens stand, as GroupQueryAttention wants to hear it.

    last: (B,) index of each row's last real token; total: (1,) longest row; both int32.
    """

    last: ir.Value
    total: ir.Value


class OnnxDecoder:
    """Writes one graph: ids in, the last norm's output out, keys and values beside it."""

    def __init__(
        self, graph: GraphBuilder, weights: Weights, plan: Plan, advance: Callable[[], Any]
    ) -> None:
        self._graph, self._weights, self._plan, self._advance = graph, weights, plan, advance
        self._config: ModelConfig = weights.config
        self._wide = padded_head_dim(self._config.head_dim)
        self._as_channels = plan.kernel == "dynamic"
        cos, sin = rotary_tables(self._config, plan.context)
        self._rotation = (graph.weight("rotation.cos", cos), graph.weight("rotation.sin", sin))
        self._table = self._put("model.embed_tokens.weight", self._read_table())

    def hidden(self, ids: ir.Value, place: Place) -> ir.Value:
        """Return what the head reads of some ids (B, T): (B, T, D)."""
        x = self._table.rows(ids, "model.embed_tokens")
        delta: ir.Value | None = None
        for layer in range(self._config.num_hidden_layers):
            name = f"model.layers.{layer}"
            x, normed = self._norm(x, delta, f"{name}.input_layernorm")
            attended = self._attend(normed, layer, place)
            delta = self._project(attended, [f"{name}.self_attn.o_proj"])
            if self._config.augmented_shortcut:
                beside = self._shortcut(normed, f"{name}.shortcut")
                delta = self._graph.node("Add", [delta, beside], f"{name}.shortcut")
            x, normed = self._norm(x, delta, f"{name}.post_attention_layernorm")
            delta = self._feed_forward(normed, f"{name}.mlp")
        _, normed = self._norm(x, delta, "model.norm")
        return normed

    def logits(self, hidden: ir.Value) -> ir.Value:
        """Return the logits (..., V) of what `hidden` returned."""
        head = self._table
        if not self._config.tie_word_embeddings:
            head = self._put("lm_head.weight", self._weights.linear("lm_head.weight"))
        return head.product(hidden, None, "lm_head")

    def _norm(self, x: ir.Value, delta: ir.Value | None, name: str) -> tuple[ir.Value, ir.Value]:
        """Return the residual stream after adding what the last block gave, and its norm."""
        weight = self._vector(f"{name}.weight")
        epsilon = self._config.rms_norm_eps
        if delta is None:
            normed = self._graph.node(
                "SimplifiedLayerNormalization", [x, weight], name, axis=-1, epsilon=epsilon
            )
            return x, normed
        normed, _, _, total = self._graph.fused_outputs(
            "SkipSimplifiedLayerNormalization", [x, delta, weight], name, 4, epsilon=epsilon
        )
        return total, normed

    def _attend(self, normed: ir.Value, layer: int, place: Place) -> ir.Value:
        """Return softmax(q k^T) v of (B, T, D), heads side by side: (B, T, H * head_dim)."""
        name = f"model.layers.{layer}.self_attn"
        qkv = self._project(normed, [f"{name}.{each}_proj" for each in "qkv"])
        past = [self._past(layer, kind) for kind in ("key", "value")]
        scales, attributes = self._cache_scales(layer)
        out, *present = self._graph.fused_outputs(
            "GroupQueryAttention",
            [qkv, None, None, *past, place.last, place.total, *self._rotation, *scales],
            f"{name}.attend",
            3,
            do_rotary=1,
            num_heads=self._config.num_attention_heads,
            kv_num_heads=self._config.num_key_value_heads,
            # Zeros fill heads up, so their width is not what the model scales by.
            scale=self._config.head_dim**-0.5,
            **attributes,
        )
        for kind, value in zip(("key", "value"), present, strict=True):
            shape = self._cache_shape("total_sequence_length")
            self._graph.output(value, f"present.{layer}.{kind}", self._kv_type, shape)
        return out if self._wide == self._config.head_dim else self._narrow(out, name)

    def _narrow(self, out: ir.Value, name: str) -> ir.Value:
        """Return heads (B, T, H * wide) without the channels that filled up their halves."""
        graph, config = self._graph, self._config
        n_halves = 2 * config.num_attention_heads
        half = config.head_dim // 2
        halves = graph.integers(0, 0, n_halves, self._wide // 2)
        cut = graph.cut(graph.node("Reshape", [out, halves], f"{name}.halves"), half, 3, name)
        return graph.node("Reshape", [cut, graph.integers(0, 0, n_halves * half)], f"{name}.heads")

    def _feed_forward(self, normed: ir.Value, name: str) -> ir.Value:
        gate = self._project(normed, [f"{name}.gate_proj"])
        up = self._project(normed, [f"{name}.up_proj"])
        activated = self._activate(gate, name)
        product = self._graph.node("Mul", [activated, up], name)
        return self._project(product, [f"{name}.down_proj"])

    def _activate(self, gate: ir.Value, name: str) -> ir.Value:
        """Return SiLU of the gate, or the sum of a series of them."""
        n_terms = self._config.series_activation
        total: ir.Value | None = None
        for term in range(n_terms):
            x, place = gate, f"{name}.series.{term}"
            if n_terms > 1:
                x = self._graph.node("Mul", [x, self._vector(f"{place}.scale")], place)
                x = self._graph.node("Add", [x, self._vector(f"{place}.shift")], place)
            # x * sigmoid(alpha * x) is SiLU where alpha is one: one node instead of two.
            x = self._graph.fused("QuickGelu", [x], place if n_terms > 1 else name, alpha=1.0)
            total = x if total is None else self._graph.node("Add", [total, x], f"{place}.sum")
        assert total is not None
        return total

    def _shortcut(self, normed: ir.Value, name: str) -> ir.Value:
        narrow = self._project(normed, [f"{name}.reduce"])
        return self._project(self._graph.fused("Gelu", [narrow], name), [f"{name}.expand"])

    def _vector(self, name: str) -> ir.Value:
        stored = self._tensor(name)
        return self._graph.as_fp32(self._graph.weight(name, stored), stored.dtype)

    def _project(self, x: ir.Value, names: Sequence[str]) -> ir.Value:
        """Return x times the transpose of one or more matrices, outputs side by side."""
        parts = [self._padded(name, self._linear(f"{name}.weight")) for name in names]
        joined = names[0] if len(names) == 1 else names[0].replace("q_proj", "qkv_proj")
        bias = None
        if self._has_bias(names[0]):
            biases = [self._padded(name, self._tensor(f"{name}.bias").float()) for name in names]
            bias = self._graph.weight(f"{joined}.bias", _tensor_of(concatenate(biases)))
        matrix = self._put(f"{joined}.weight", concatenate(parts))
        return matrix.product(x, bias, joined)

    def _has_bias(self, name: str) -> bool:
        if name.endswith("o_proj"):
            return self._config.bias == "qkvo"
        return name.endswith("q_proj") and self._config.bias != "none"

    def _padded(self, name: str, stored: Stored) -> Stored:
        """Return rows for heads as wide as the attention takes."""
        if self._wide == self._config.head_dim or not name.endswith(("q_proj", "k_proj", "v_proj")):
            return stored
        return pad_rows(stored, self._config.head_dim, self._wide)

    def _past(self, layer: int, kind: str) -> ir.Value:
        shape = self._cache_shape("past_sequence_length")
        return self._graph.input(f"past_key_values.{layer}.{kind}", self._kv_type, shape)

    def _cache_shape(self, length: str) -> list[str | int]:
        return ["batch_size", self._config.num_key_value_heads, length, self._wide]

    @property
    def _kv_type(self) -> ir.DataType:
        return KV_TYPES[self._plan.kv_dtype]

    def _cache_scales(self, layer: int) -> tuple[list[ir.Value | None], dict[str, Any]]:
        """Return what tells the attention how bytes of the cache are scaled; nothing for floats."""
        if self._plan.kv_dtype != "int8":
            return [], {}
        assert self._weights.kv_scales is not None, "an int8 cache is calibrated"
        # One scale a layer: onnxruntime multiplies bytes by bytes only then.
        values = [
            self._graph.weight(f"model.layers.{layer}.{kind}_scale", scales[layer : layer + 1])
            for kind, scales in zip(
                ("key", "value"), self._weights.kv_scales.per_layer(), strict=True
            )
        ]
        attributes = {
            "kv_cache_bit_width": 8,
            "k_quant_type": "PER_TENSOR",
            "v_quant_type": "PER_TENSOR",
        }
        return [None, None, None, *values], attributes

    def _read_table(self) -> Stored:
        self._advance()
        return self._weights.table()

    def _linear(self, name: str) -> Stored:
        self._advance()
        return self._weights.linear(name)

    def _tensor(self, name: str) -> torch.Tensor:
        self._advance()
        tensor = self._weights.tensor(name)
        return tensor.half() if self._plan.precision == "fp16" else tensor.float()

    def _put(self, name: str, stored: Stored) -> Matrix:
        return put(self._graph, name, stored, as_channels=self._as_channels)


def _tensor_of(stored: Stored) -> torch.Tensor:
    assert isinstance(stored, torch.Tensor)
    return stored
