"""InternLM2's tensors under LLaMA's names.

Its `wqkv` holds, for each key/value head, the rows of its queries, its key and its value.
"""

import functools
import re
from collections.abc import Callable, Mapping

from torch import Tensor

from edgetiny.checkpoint.model_config import ModelConfig

Reader = Callable[[], Tensor]

_RENAMED = {
    "tok_embeddings": "embed_tokens",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
}


def internlm2_tensors(
    config: ModelConfig, readers: Mapping[str, Reader], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Reader], dict[str, tuple[int, ...]]]:
    """Return readers and shapes under LLaMA's names; `wqkv` is split when it is read."""
    new_readers: dict[str, Reader] = {}
    new_shapes: dict[str, tuple[int, ...]] = {}
    for name, read in readers.items():
        if ".attention.wqkv." in name:
            for part, width in _widths(config).items():
                new = name.replace("attention.wqkv", f"self_attn.{part}_proj")
                new_readers[new] = functools.partial(split_wqkv, read, config, part)
                new_shapes[new] = (width, *shapes[name][1:])
        else:
            new = "lm_head.weight" if name == "output.weight" else _rename(name)
            new_readers[new], new_shapes[new] = read, shapes[name]
    return new_readers, new_shapes


def split_wqkv(read: Reader, config: ModelConfig, part: str) -> Tensor:
    """Return the rows of `part` (q, k or v): (heads * head_dim, hidden), a bias without hidden."""
    fused = read()
    per_head = (config.num_key_value_heads, config.group_size + 2, config.head_dim)
    grouped = fused.view(*per_head, *fused.shape[1:])  # (G, H / G + 2, head_dim, ...)
    rows = {"q": slice(0, config.group_size), "k": slice(-2, -1), "v": slice(-1, None)}[part]
    return grouped[:, rows].flatten(0, 2).contiguous()  # (heads * head_dim, ...)


def _widths(config: ModelConfig) -> dict[str, int]:
    kv_width = config.num_key_value_heads * config.head_dim
    return {"q": config.num_attention_heads * config.head_dim, "k": kv_width, "v": kv_width}


def _rename(name: str) -> str:
    pattern = "|".join(re.escape(old) for old in _RENAMED)
    return re.sub(rf"(?<=\.)({pattern})(?=\.)", lambda match: _RENAMED[match[1]], name)
