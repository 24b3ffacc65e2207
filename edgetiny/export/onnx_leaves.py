"""The decoder's leaves as onnxruntime's fused operations; the rest of the model stays as written.

Axes: B sequences, T new tokens, D hidden size, V vocabulary, H query heads, G key/value heads.
Each forward names its ONNX operation and the shape of what comes out; nothing is computed here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic, symbolic_multi_out

from edgetiny.checkpoint import ModelConfig
from edgetiny.model import Rotary
from edgetiny.quantize import BlockWeight

# As `symbolic` declares them.
Attributes = dict[
    str,
    int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool],
]

_FLOAT = 1  # onnx.TensorProto.FLOAT

# Activations are rounded to eight bits a block, for the integer dot products of the machine.
ACCURACY_LEVEL = 4


class OnnxNorm(nn.Module):
    """RMSNorm as SimplifiedLayerNormalization."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        attributes: Attributes = {"axis": -1, "epsilon": self.eps, "stash_type": 1}
        inputs = (x, as_fp32(self.get_buffer("weight")))
        return symbolic(
            "SimplifiedLayerNormalization", inputs, attributes, dtype=x.dtype, shape=x.shape
        )


class OnnxLinear(nn.Module):
    """A matrix product as MatMul, its weight turned once so that no graph has to."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.t().contiguous())  # (D in, D out)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = as_fp32(self.get_buffer("weight"))
        shape = (*x.shape[:-1], weight.shape[1])
        y = symbolic("MatMul", (x, weight), dtype=x.dtype, shape=shape)
        return y if self.bias is None else y + as_fp32(self.get_buffer("bias"))


class OnnxBlockLinear(nn.Module):
    """A matrix product as MatMulNBits over eight-bit blocks."""

    def __init__(self, weight: BlockWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.data)
        self.register_buffer("scales", weight.scales)
        self.register_buffer("bias", bias)
        self.columns = weight.columns

    def forward(self, x: Tensor) -> Tensor:
        weight, scales = self.get_buffer("weight"), self.get_buffer("scales")
        y = block_product(x, weight, scales, self.columns)
        return y if self.bias is None else y + self.get_buffer("bias")


class OnnxTable(nn.Module):
    """The embedding as Gather; `project` is the head that is tied to it, over the same bytes."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)  # (V, D)

    def forward(self, tokens: Tensor) -> Tensor:
        weight = self.get_buffer("weight")
        shape = (*tokens.shape, weight.shape[1])
        return as_fp32(
            symbolic("Gather", (weight, tokens), {"axis": 0}, dtype=weight.dtype, shape=shape)
        )

    def project(self, x: Tensor) -> Tensor:
        weight = as_fp32(self.get_buffer("weight"))
        return symbolic(
            # MatMul would need a transposed copy of the largest tensor.
            "com.microsoft::FusedMatMul",
            (x, weight),
            {"transB": 1},
            dtype=x.dtype,
            shape=(*x.shape[:-1], weight.shape[0]),
            version=1,
        )


class OnnxBlockTable(nn.Module):
    """The embedding as GatherBlockQuantized; `project` is the tied head over the same bytes."""

    def __init__(self, weight: BlockWeight) -> None:
        super().__init__()
        self.register_buffer("weight", weight.data)  # (V, n_blocks, block_size)
        self.register_buffer("scales", weight.scales)
        self.columns = weight.columns

    def forward(self, tokens: Tensor) -> Tensor:
        weight, scales = self.get_buffer("weight"), self.get_buffer("scales")
        attributes: Attributes = {
            "bits": 8,
            "block_size": weight.shape[2],
            "gather_axis": 0,
            "quantize_axis": 2,
        }
        blocks = symbolic(
            "com.microsoft::GatherBlockQuantized",
            (weight, tokens, scales[..., None]),
            attributes,
            dtype=torch.float32,
            shape=(*tokens.shape, *weight.shape[1:]),
            version=1,
        )
        rows = blocks.flatten(2)  # (B, T, n_blocks * block_size)
        return rows if rows.shape[2] == self.columns else rows[..., : self.columns]

    def project(self, x: Tensor) -> Tensor:
        return block_product(x, self.get_buffer("weight"), self.get_buffer("scales"), self.columns)


class OnnxTiedHead(nn.Module):
    """The head of a tied model."""

    def __init__(self, table: OnnxTable | OnnxBlockTable) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Tensor) -> Tensor:
        return self.table.project(x)


class OnnxAttend(nn.Module):
    """Rotation, cache and attention as GroupQueryAttention."""

    def __init__(self, config: ModelConfig, layer: int, scale: float) -> None:
        super().__init__()
        self.layer = layer
        self.attributes: Attributes = {
            "do_rotary": 1,
            "kv_num_heads": config.num_key_value_heads,
            "num_heads": config.num_attention_heads,
            "scale": scale,
        }

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, rotary: Rotary, sequence: "GraphSequence"
    ) -> Tensor:
        key, value = sequence.past[self.layer]  # each (B, G, past, head_dim)
        B, G, _, head_dim = key.shape
        present = (B, G, sequence.n_total, head_dim)
        out, *sequence.present[self.layer] = symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            (q, k, v, key, value, sequence.last, sequence.total, sequence.cos, sequence.sin),
            self.attributes,
            dtypes=(q.dtype, key.dtype, value.dtype),
            shapes=(q.shape, present, present),
            version=1,
        )
        return out


class GraphSequence:
    """Where the new tokens stand, as GroupQueryAttention wants to hear it.

    past: key and value inputs per layer. present: what the layers answered, filled as they run.
    last: (B,) index of each row's last real token; total: (1,) longest row; both int32.
    """

    def __init__(
        self, attention_mask: Tensor, past: Sequence[Tensor], cos: Tensor, sin: Tensor
    ) -> None:
        self.past = list(zip(past[::2], past[1::2], strict=True))
        self.present: list[list[Tensor]] = [[] for _ in self.past]
        self.n_total = attention_mask.shape[1]
        self.last = (attention_mask.sum(dim=1) - 1).to(torch.int32)
        total = symbolic("Shape", (attention_mask,), {"start": 1}, dtype=torch.int64, shape=(1,))
        self.total = total.to(torch.int32)
        self.cos, self.sin = cos, sin
        # The model asks where its tokens stand; the fused operation counts for itself.
        self.positions = torch.zeros(1, 1, dtype=torch.int64)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise AssertionError("the lowered attention reads the cache itself")


def as_fp32(x: Tensor) -> Tensor:
    """Return a weight as the arithmetic wants it; onnxruntime folds the Cast when it loads."""
    if x.dtype == torch.float32:
        return x
    return symbolic("Cast", (x,), {"to": _FLOAT}, dtype=torch.float32, shape=x.shape)


def block_product(x: Tensor, weight: Tensor, scales: Tensor, columns: int) -> Tensor:
    """Return x (B, T, K) times the transpose of an eight-bit matrix (N, n_blocks, block_size)."""
    n_rows, _, block_size = weight.shape
    attributes: Attributes = {
        "K": columns,
        "N": n_rows,
        "accuracy_level": ACCURACY_LEVEL,
        "bits": 8,
        "block_size": block_size,
    }
    return symbolic(
        "com.microsoft::MatMulNBits",
        (x, weight, scales),
        attributes,
        dtype=x.dtype,
        shape=(*x.shape[:-1], n_rows),
        version=1,
    )
