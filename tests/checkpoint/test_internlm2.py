import weakref

import torch
from safetensors.torch import save_file

from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes
from edgetiny.files import write_json

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=24,
    intermediate_size=20,
    num_hidden_layers=1,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=4,
    tie_word_embeddings=False,
)


def write_fused(folder, tensors):
    layer = "model.layers.0."
    q, k, v = (tensors[f"{layer}self_attn.{part}_proj.weight"] for part in "qkv")
    # Per key/value head: the rows of its three queries, then its key, then its value.
    fused = torch.cat([q[:12], k[:4], v[:4], q[12:], k[4:], v[4:]])
    save_file(
        {
            "model.tok_embeddings.weight": tensors["model.embed_tokens.weight"],
            f"{layer}attention_norm.weight": tensors[f"{layer}input_layernorm.weight"],
            f"{layer}attention.wqkv.weight": fused,
            f"{layer}attention.wo.weight": tensors[f"{layer}self_attn.o_proj.weight"],
            f"{layer}ffn_norm.weight": tensors[f"{layer}post_attention_layernorm.weight"],
            f"{layer}feed_forward.w1.weight": tensors[f"{layer}mlp.gate_proj.weight"],
            f"{layer}feed_forward.w3.weight": tensors[f"{layer}mlp.up_proj.weight"],
            f"{layer}feed_forward.w2.weight": tensors[f"{layer}mlp.down_proj.weight"],
            "model.norm.weight": tensors["model.norm.weight"],
            "output.weight": tensors["lm_head.weight"],
        },
        folder / "model.safetensors",
    )
    write_json(folder / "config.json", CONFIG.to_hf() | {"model_type": "internlm2", "bias": False})


def test_a_fused_folder_reads_as_the_llama_tensors_it_was_made_of(tmp_path):
    tensors = {name: torch.randn(shape) for name, shape in parameter_shapes(CONFIG).items()}
    write_fused(tmp_path, tensors)
    checkpoint = Checkpoint.open(tmp_path)
    for name, tensor in tensors.items():
        assert torch.equal(checkpoint.tensor(name), tensor), name


def test_the_parts_are_made_when_they_are_asked_for_and_not_kept(tmp_path):
    tensors = {name: torch.randn(shape) for name, shape in parameter_shapes(CONFIG).items()}
    write_fused(tmp_path, tensors)
    lazy = Checkpoint.open(tmp_path).state_dict()
    assert lazy.keys() == tensors.keys()
    name = "model.layers.0.self_attn.k_proj.weight"
    assert torch.equal(lazy[name], tensors[name])
    made = weakref.ref(lazy[name])
    assert made() is None
