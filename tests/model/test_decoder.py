import pytest
import torch

from edgetiny.checkpoint import (
    Checkpoint,
    ModelConfig,
    RopeScaling,
    parameter_shapes,
    write_checkpoint,
)
from edgetiny.errors import ConfigError
from edgetiny.files import atomic_folder
from edgetiny.model import KVCache, load_model
from edgetiny.model.sequence import Fresh

LLAMA3 = RopeScaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)
CLOSE = {"atol": 1e-4, "rtol": 0}
LLAMA_LIKE = {
    "mha_tied": {"num_key_value_heads": 4},
    "gqa_untied": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "llama3": {"num_key_value_heads": 2, "rope_scaling": LLAMA3},
    "qwen2": {"num_key_value_heads": 2, "bias": "qkv"},
    "biased": {"num_key_value_heads": 1, "bias": "qkvo", "tie_word_embeddings": False},
}
OPTIONS = LLAMA_LIKE | {
    "series": {"num_key_value_heads": 2, "series_activation": 2},
    "pangu": {"num_key_value_heads": 2, "series_activation": 3, "augmented_shortcut": 5},
}


@pytest.fixture(params=OPTIONS)
def checkpoint(request, tmp_path):
    config = ModelConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=44,
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=12,
        bos_token_id=1,
        eos_token_ids=(2,),
        **OPTIONS[request.param],
    )
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(shape, generator=generator) * 0.3 + (len(shape) == 1)
        for name, shape in parameter_shapes(config).items()
    }
    with atomic_folder(tmp_path / "model") as folder:
        write_checkpoint(
            folder, config, tensors, stage="init", settings={}, parent=None, tokenizer=None
        )
    return Checkpoint.open(tmp_path / "model")


@pytest.fixture
def tokens():
    return torch.randint(0, 97, (3, 20), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("checkpoint", LLAMA_LIKE, indirect=True)
def test_logits_equal_transformers_both_ways(checkpoint, tokens, tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.path)
    ours = load_model(checkpoint)(tokens)
    assert ours.abs().max() > 1
    torch.testing.assert_close(ours, theirs(tokens).logits, **CLOSE)
    theirs.save_pretrained(tmp_path / "back")
    again = load_model(Checkpoint.open(tmp_path / "back"))(tokens)
    torch.testing.assert_close(again, ours, **CLOSE)


@torch.no_grad()
def test_decode_equals_the_pass_without_a_cache_at_unequal_lengths(checkpoint, tokens):
    model = load_model(checkpoint)
    expected = model(tokens)
    cache = KVCache(checkpoint.config, batch=3, capacity=32)
    lengths = torch.tensor([5, 3, 7])
    prefill = model(tokens[:, :7], cache.append(tokens[:, :7], lengths))
    for row, length in enumerate(lengths):
        torch.testing.assert_close(prefill[row, :length], expected[row, :length], **CLOSE)
    for _ in range(6):
        at = cache.lengths.clone()
        new = tokens[torch.arange(3), at][:, None]
        logits = model(new, cache.append(new))
        torch.testing.assert_close(logits[:, 0], expected[torch.arange(3), at], **CLOSE)


@torch.no_grad()
def test_several_tokens_at_once_and_a_rewind_change_nothing(checkpoint, tokens):
    model = load_model(checkpoint)
    expected = model(tokens)
    cache = KVCache(checkpoint.config, batch=3, capacity=20)
    model(tokens[:, :12], cache.append(tokens[:, :12]))
    cache.rewind(8)
    logits = model(tokens[:, 8:], cache.append(tokens[:, 8:]))
    torch.testing.assert_close(logits, expected[:, 8:], **CLOSE)


def test_a_full_cache_and_a_context_beyond_the_model_are_refused(checkpoint, tokens):
    cache = KVCache(checkpoint.config, batch=3, capacity=8)
    cache.append(tokens[:, :8])
    with pytest.raises(ConfigError, match="holds 8 tokens"):
        cache.append(tokens[:, :1])
    with pytest.raises(ConfigError, match="max_position_embeddings"):
        KVCache(checkpoint.config, batch=1, capacity=4096)


def test_parameters_carry_the_checkpoint_names(checkpoint):
    model = load_model(checkpoint)
    assert model.tensors().keys() == checkpoint.state_dict().keys()


def test_loading_copies_the_weights_out_of_the_file(checkpoint):
    model = load_model(checkpoint)
    with torch.no_grad():
        model.model.norm.weight.zero_()
    assert checkpoint.tensor("model.norm.weight").abs().sum() > 0


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_attention_in_bf16_is_trained_as_in_fp32(kv_heads: int) -> None:
    """What a CPU computes in fp32 for speed answers, in value and gradient, as bf16 would."""
    shapes = [(2, heads, 24, 16) for heads in (4, kv_heads, kv_heads)]
    exact = [torch.randn(shape, requires_grad=True) for shape in shapes]
    rough = [x.detach().bfloat16().requires_grad_() for x in exact]
    upstream = torch.randn(shapes[0])
    wanted, given = (Fresh(torch.zeros(2, 24)).attend(0, *each) for each in (exact, rough))
    assert given.dtype == torch.bfloat16
    wanted.backward(upstream)
    given.backward(upstream.bfloat16())
    torch.testing.assert_close(given.float(), wanted, rtol=0.02, atol=0.02)
    for one, other in zip(rough, exact, strict=True):
        assert one.grad.dtype == torch.bfloat16
        torch.testing.assert_close(one.grad.float(), other.grad, rtol=0.02, atol=0.04)
    with torch.no_grad():
        assert Fresh(torch.zeros(2, 24)).attend(0, *rough).dtype == torch.bfloat16
