from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgetiny.checkpoint import ModelConfig
from edgetiny.config.model import InitConfig
from edgetiny.design import preset, to_toml
from edgetiny.design.file import Design
from edgetiny.errors import ConfigError, DataError
from edgetiny.init import RandomTensors, default_ffn_width, run
from edgetiny.model import load_model
from edgetiny.tokenizer import Tokenizer


def _config(tokenizer: Path, out: Path, **settings: object) -> InitConfig:
    base = InitConfig(
        tokenizer=tokenizer,
        out=out,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    return replace(base, **settings)  # type: ignore[arg-type]


def test_checkpoint_fits_its_tokenizer_and_runs(tiny_tokenizer: Path, tmp_path: Path) -> None:
    checkpoint = run(_config(tiny_tokenizer, tmp_path / "model", num_key_value_heads=2))
    tokenizer = Tokenizer.open(checkpoint.path)
    config = checkpoint.config
    assert config.vocab_size == tokenizer.vocab_size
    assert config.bos_token_id == tokenizer.bos_id
    assert config.eos_token_ids == (tokenizer.eos_id,)
    assert (config.num_key_value_heads, config.head_dim) == (2, 8)
    logits = load_model(checkpoint)(torch.tensor([tokenizer.encode("a word")]))
    assert logits.isfinite().all()
    assert checkpoint.lineage["stage"] == "init"
    assert checkpoint.lineage["settings"]["seed"] == 0


def test_matrices_have_the_asked_deviation_and_norms_are_one(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    settings = {"hidden_size": 128, "initializer_range": 0.05, "tie_word_embeddings": False}
    checkpoint = run(_config(tiny_tokenizer, tmp_path / "model", **settings))
    for name, tensor in checkpoint.state_dict().items():
        if tensor.dim() == 1:
            assert torch.equal(tensor, torch.ones_like(tensor)), name
        else:
            # The deviation of n draws varies by 1 / sqrt(2 n): under 0.6% for these sizes.
            assert tensor.std().item() == pytest.approx(0.05, rel=0.04), name
            assert abs(tensor.mean().item()) < 0.003, name


def test_same_seed_same_bytes_and_another_seed_others(tiny_tokenizer: Path, tmp_path: Path) -> None:
    first = run(_config(tiny_tokenizer, tmp_path / "a"))
    again = run(_config(tiny_tokenizer, tmp_path / "b"))
    other = run(_config(tiny_tokenizer, tmp_path / "c", seed=1))
    assert first.sha256 == again.sha256 != other.sha256


def test_a_tensor_depends_on_its_name_and_not_on_the_rest(tiny_config: ModelConfig) -> None:
    shallow = RandomTensors(tiny_config, std=0.02, seed=3)
    deep = RandomTensors(replace(tiny_config, num_hidden_layers=5), std=0.02, seed=3)
    assert len(deep) > len(shallow)
    for name in reversed(list(shallow)):
        assert torch.equal(shallow[name], deep[name]), name
    q = [shallow[f"model.layers.{layer}.self_attn.q_proj.weight"] for layer in (0, 1)]
    assert not torch.equal(*q)


def test_biases_start_at_zero(tiny_config: ModelConfig) -> None:
    tensors = RandomTensors(replace(tiny_config, bias="qkvo"), std=0.02, seed=0)
    biases = [tensor for name, tensor in tensors.items() if name.endswith(".bias")]
    assert len(biases) == 4 * tiny_config.num_hidden_layers
    assert not any(bias.any() for bias in biases)


@pytest.mark.parametrize("width", [32, 48, 100, 640, 1792])
def test_ffn_is_the_least_multiple_of_32_from_8_3_of_the_width(width: int) -> None:
    ffn = default_ffn_width(width)
    assert ffn % 32 == 0
    assert 0 <= 3 * ffn - 8 * width < 3 * 32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 36, "num_attention_heads": 8}, "choose from 1, 2, 3, 4, 6, 9"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"head_dim": 7}, "head_dim must be even"),
    ],
)
def test_sizes_that_do_not_fit_leave_nothing_behind(
    settings: dict[str, int], message: str, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run(_config(tiny_tokenizer, tmp_path / "model", **settings))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tokenizer_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none"):
        run(_config(tmp_path / "none", tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_file_is_refused(tiny_tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name its folder"):
        run(_config(tiny_tokenizer / "tokenizer.model", tmp_path / "model"))


def test_an_existing_checkpoint_stands_without_overwrite(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    before = run(_config(tiny_tokenizer, out)).sha256
    with pytest.raises(ConfigError, match="--overwrite"):
        run(_config(tiny_tokenizer, out, seed=1))
    assert run(_config(tiny_tokenizer, out, seed=1, overwrite=True)).sha256 != before


def _design(tmp_path: Path, config: ModelConfig) -> Path:
    path = tmp_path / "design.toml"
    path.write_text(to_toml(Design("small", "a test", config)))
    return path


def test_a_design_is_the_whole_shape(
    tiny_tokenizer: Path, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    shape = replace(tiny_config, vocab_size=512, rope_theta=5e4, tie_word_embeddings=False)
    out = tmp_path / "model"
    config = run(
        InitConfig(tokenizer=tiny_tokenizer, out=out, design=_design(tmp_path, shape))
    ).config
    tokenizer = Tokenizer.open(tiny_tokenizer)
    ids = {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    assert config == replace(shape, eos_token_ids=(tokenizer.eos_id,), **ids)


def test_without_sizes_the_defaults_count(tiny_tokenizer: Path, tmp_path: Path) -> None:
    config = run(InitConfig(tokenizer=tiny_tokenizer, out=tmp_path / "model")).config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (256, 8, 8)
    assert (config.max_position_embeddings, config.rope_theta) == (2048, 10_000.0)
    assert config.tie_word_embeddings


def test_a_design_of_another_vocabulary_is_refused(tiny_tokenizer: Path, tmp_path: Path) -> None:
    config = InitConfig(
        tokenizer=tiny_tokenizer, out=tmp_path / "model", design=Path("mobilellm-125m")
    )
    assert preset("mobilellm-125m").config.vocab_size == 32_000
    with pytest.raises(ConfigError, match=r"32000 rows and the tokenizer 512 .*--vocab 512"):
        run(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"design": Path("d.toml"), "hidden_size": 64}, "leave out --hidden-size, or --design"),
        ({"design": Path("d.toml"), "tie_word_embeddings": False}, "--tie-word-embeddings"),
        ({"init": "neox", "initializer_range": 0.02}, "leave out --initializer-range"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        InitConfig(tokenizer=Path("t"), out=Path("o"), **settings)  # type: ignore[arg-type]


def test_the_scheme_reaches_the_weights(tiny_tokenizer: Path, tmp_path: Path) -> None:
    settings = {"init": "depth_adaptive", "initializer_range": 0.1}
    checkpoint = run(_config(tiny_tokenizer, tmp_path / "model", **settings))
    q = [checkpoint.tensor(f"model.layers.{i}.self_attn.q_proj.weight").std() for i in (0, 1)]
    assert (q[0] / q[1]).item() == pytest.approx(2**0.5, rel=0.1)
    assert checkpoint.lineage["settings"]["init"] == "depth_adaptive"
