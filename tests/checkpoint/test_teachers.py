"""Folders that transformers wrote: every supported family gives the logits of its own code."""

import json

import pytest
import torch

from edgetiny.checkpoint import Checkpoint
from edgetiny.errors import CheckpointError
from edgetiny.model import load_model

transformers = pytest.importorskip("transformers")

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# What each family has that the others do not; sizes are as small as they go.
FAMILIES = {
    "llama": ("LlamaConfig", {"num_key_value_heads": 4, "rms_norm_eps": 1e-6}),
    "tinyllama": ("LlamaConfig", {"rms_norm_eps": 1e-5}),
    "smollm": ("LlamaConfig", {"num_attention_heads": 3, "num_key_value_heads": 1,
                               "hidden_size": 36, "tie_word_embeddings": True}),
    "llama3": ("LlamaConfig", {"rope_theta": 500000.0, "rope_scaling": LLAMA3}),
    "internlm": ("LlamaConfig", {"num_key_value_heads": 4, "attention_bias": True}),
    "mistral": ("MistralConfig", {"sliding_window": 32, "head_dim": 12}),
    "mistral without window": ("MistralConfig", {"sliding_window": None, "rope_theta": 1e6}),
    "qwen2": ("Qwen2Config", {"rope_theta": 1e6, "sliding_window": 8}),
    "qwen2.5 tied": ("Qwen2Config", {"rope_theta": 1e6, "tie_word_embeddings": True}),
}  # fmt: skip


def saved(family, folder, **settings):
    """Write a random model of a family as transformers does, and return it."""
    kind, own = FAMILIES[family]
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**SIZES | own)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):  # zero as transformers draws them, which proves nothing
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder, **settings)
    return model


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_transformers(family, tmp_path):
    theirs = saved(family, tmp_path)
    tokens = torch.randint(0, 97, (2, 24), generator=torch.Generator().manual_seed(1))
    expected = theirs(tokens).logits
    assert expected.abs().max() > 1
    ours = load_model(Checkpoint.open(tmp_path))(tokens)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_shards_with_an_index_read_as_one_file(tmp_path):
    theirs = saved("llama", tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    tokens = torch.arange(12)[None]
    ours = load_model(Checkpoint.open(tmp_path))(tokens)
    torch.testing.assert_close(ours, theirs(tokens).logits, rtol=0, atol=1e-4)


@torch.no_grad()
def test_internlm_names_its_biases_otherwise(tmp_path):
    """InternLM 1 says `bias`, and has its own model_type; the tensors are a biased LLaMA's."""
    theirs = saved("internlm", tmp_path)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    del raw["attention_bias"]
    path.write_text(json.dumps(raw | {"model_type": "internlm", "bias": True}), encoding="utf-8")
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.config.bias == "qkvo"
    tokens = torch.arange(12)[None]
    ours = load_model(checkpoint)(tokens)
    torch.testing.assert_close(ours, theirs(tokens).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "model_type 'mixtral'"),
        ({"model_type": "gemma2"}, "model_type 'gemma2'"),
        ({"model_type": "phi3"}, "model_type 'phi3'"),
        ({"model_type": "qwen3"}, "model_type 'qwen3'"),
        ({"model_type": None}, "model_type None"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "linear"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
)
def test_what_is_not_computed_is_one_line(tmp_path, changes, message):
    saved("llama", tmp_path)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw.pop("rope_parameters", None)
    path.write_text(json.dumps(raw | changes), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message) as caught:
        Checkpoint.open(tmp_path)
    assert "\n" not in str(caught.value)
