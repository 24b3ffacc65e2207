"""From weights to a GGUF file, for llama.cpp and what is built on it.

Every model is written as the `llama` architecture, whose biases are optional. Tensors are made and
written one at a time: first their sizes, then, one after another, their bytes.

Axes: N rows (outputs), K columns (inputs).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray
from torch import Tensor

from edgetiny.checkpoint import ModelConfig, parameter_shapes
from edgetiny.export.gguf_shape import BLOCK, Padded
from edgetiny.export.gguf_vocabulary import write_vocabulary
from edgetiny.export.plan import Lowered, Plan
from edgetiny.model import rotary_frequencies
from edgetiny.quantize import ZERO_POINT, BlockWeight, Weights
from edgetiny.tokenizer import Tokenizer

FILE = "model.gguf"
_TYPES = {
    "fp32": GGMLQuantizationType.F32,
    "fp16": GGMLQuantizationType.F16,
    "int8": GGMLQuantizationType.Q8_0,
    "int4": GGMLQuantizationType.Q4_0,
}
_FILE_TYPES = {
    "fp32": LlamaFileType.ALL_F32,
    "fp16": LlamaFileType.MOSTLY_F16,
    "int8": LlamaFileType.MOSTLY_Q8_0,
    "int4": LlamaFileType.MOSTLY_Q4_0,
}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to come: its GGUF name, shape in numbers, storage, and how to make its bytes."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    make: Callable[[], Array]

    @property
    def size_bytes(self) -> int:
        """Bytes of the stored tensor."""
        block, block_bytes = GGML_QUANT_SIZES[self.type]
        return int(np.prod(self.shape)) // block * block_bytes


def lower_gguf(
    folder: Path,
    weights: Weights,
    plan: Plan,
    advance: Callable[..., None],
    *,
    tokenizer: Tokenizer | None,
) -> Lowered:
    """Write a plan's weights and the tokenizer into `model.gguf`.

    Raises ConfigError for a tokenizer that llama.cpp has no rule for.
    """
    padded = Padded.of(weights.config, plan.precision)
    writer = GGUFWriter(folder / FILE, "llama")
    _add_shape(writer, padded, plan)
    kind = write_vocabulary(writer, tokenizer, weights.config.vocab_size)
    entries = list(_entries(weights, padded, plan))
    for entry in entries:
        # Sizes go by the shape, so the type that is written over it is always given.
        writer.add_tensor_info(
            entry.name, entry.shape, np.dtype(np.float32), entry.size_bytes, entry.type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for entry in entries:
        writer.write_tensor_data(entry.make())
        advance()
    writer.close()
    storage: dict[str, int] = {}
    for entry in entries:
        storage[entry.type.name] = storage.get(entry.type.name, 0) + 1
    facts = {
        "compute_dtype": "fp32",
        "max_batch": None,
        "loaders": ["llama.cpp"],
        "tensors": storage,
        "tokenizer": kind,
        "hidden_size": padded.hidden,
        "intermediate_size": padded.intermediate,
    }
    return Lowered([FILE], {}, facts)


def gguf_name(name: str) -> str:
    """Return llama.cpp's name of a tensor, from the checkpoint's."""
    stem, kind = name.rsplit(".", 1)
    if not stem.startswith("model.layers."):
        return f"{_NAMES[stem]}.{kind}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_NAMES[part]}.{kind}"


def interleaved(n_heads: int, head_dim: int) -> Tensor:
    """Return the order of the rows of q and k in which llama.cpp rotates them.

    It turns neighbouring channels together, LLaMA's files those half a head apart.
    """
    rows = torch.arange(n_heads * head_dim).view(n_heads, 2, head_dim // 2)
    return rows.transpose(1, 2).flatten()  # (n_heads * head_dim,)


def _add_shape(writer: GGUFWriter, padded: Padded, plan: Plan) -> None:
    config = padded.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(plan.context)
    writer.add_embedding_length(padded.hidden)
    writer.add_feed_forward_length(padded.intermediate)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps * padded.share)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_file_type(_FILE_TYPES[plan.precision])
    writer.add_quantization_version(2)


def _entries(weights: Weights, padded: Padded, plan: Plan) -> Iterator[Entry]:
    config = padded.config
    for name, true_shape in parameter_shapes(config).items():
        shape = padded.shape(name, true_shape)
        if len(true_shape) == 1:
            yield _vector(weights, name, shape, padded)
        else:
            yield _matrix(weights, name, shape, plan, config)
    if config.rope_scaling is not None:
        exponents = torch.arange(0, config.head_dim, 2).float() / config.head_dim
        factors = config.rope_theta**-exponents / rotary_frequencies(config)
        yield Entry(
            "rope_freqs.weight", tuple(factors.shape), GGMLQuantizationType.F32, factors.numpy
        )


def _vector(weights: Weights, name: str, shape: tuple[int, ...], padded: Padded) -> Entry:
    def make() -> Array:
        stored = weights.tensor(name).float()
        if "norm" in name:
            stored = stored * padded.share**0.5
        stored = torch.nn.functional.pad(stored, (0, shape[0] - len(stored)))
        return _in_order(name, stored, padded.config).contiguous().numpy()

    return Entry(gguf_name(name), shape, GGMLQuantizationType.F32, make)


def _matrix(
    weights: Weights, name: str, shape: tuple[int, int] | tuple[int, ...], plan: Plan,
    config: ModelConfig,
) -> Entry:  # fmt: skip
    type = _TYPES[plan.precision]
    if shape[1] % GGML_QUANT_SIZES[type][0]:
        # Heads whose widths do not add up to whole blocks: o_proj alone, and alone in this type.
        type = GGMLQuantizationType.F16

    def make() -> Array:
        if type in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            stored = weights.tensor(name)
            rows, columns = (int(size) for size in shape)
            grown = torch.nn.functional.pad(
                stored, (0, columns - stored.shape[1], 0, rows - stored.shape[0])
            )
            dtype = torch.float32 if type == GGMLQuantizationType.F32 else torch.float16
            return _in_order(name, grown.to(dtype), config).contiguous().numpy()
        blocks = weights.linear(name)
        assert isinstance(blocks, BlockWeight)
        return block_bytes(blocks, name, shape[0], config)

    return Entry(gguf_name(name), shape, type, make)


def block_bytes(weight: BlockWeight, name: str, n_rows: int, config: ModelConfig) -> Array:
    """Return blocks as Q8_0 or Q4_0 has them: (n_rows, bytes of a row), uint8.

    Each block is its scale in fp16, then its integers; of four bits the first half of the block
    lies in the low halves of the bytes. Rows beyond the weight's own are zeros.
    """
    assert weight.block_size == BLOCK
    assert weight.zero_points is None
    data = _in_order(name, weight.data, config)
    scales = _in_order(name, weight.scales, config).to(torch.float16)[..., None]
    if weight.bits == 8:
        integers = (data.to(torch.int16) - ZERO_POINT).to(torch.int8).view(torch.uint8)
    else:
        low, high = data & 15, data >> 4
        flat = torch.stack((low, high), dim=-1).flatten(2)  # (N, n_blocks, 32)
        integers = flat[..., :16] | (flat[..., 16:] << 4)
    rows = torch.cat((scales.view(torch.uint8), integers), dim=-1).flatten(1)
    # A scale of zero makes any integer zero.
    return torch.nn.functional.pad(rows, (0, 0, 0, n_rows - len(rows))).contiguous().numpy()


def _in_order(name: str, tensor: Tensor, config: ModelConfig) -> Tensor:
    """Return a tensor with the rows of q and k in llama.cpp's order."""
    if ".q_proj." in name:
        return tensor[interleaved(config.num_attention_heads, config.head_dim)]
    if ".k_proj." in name:
        return tensor[interleaved(config.num_key_value_heads, config.head_dim)]
    return tensor
