import random
import shutil
from dataclasses import replace

import pytest
import torch

from edgetiny.config.data import DataBuildConfig
from edgetiny.config.model import InheritConfig
from edgetiny.config.tokenizer import TokenizerTrainConfig
from edgetiny.data.build import run as build
from edgetiny.errors import CheckpointError, ConfigError, DataError
from edgetiny.evaluate.window import trained_length
from edgetiny.importance.axes import layer_of
from edgetiny.inherit.stage import run
from edgetiny.tokenizer.train import run as train_tokenizer

KINDS = {
    "mha_tied": {},
    "gqa_untied": {"num_key_value_heads": 4, "tie_word_embeddings": False},
    "qwen2": {"num_key_value_heads": 2, "bias": "qkv"},
    "biased": {"num_key_value_heads": 4, "bias": "qkvo"},
}


def inherit(source, data, out, **settings):
    return run(
        InheritConfig(source=source.path, data=data, out=out, calibration_tokens=100, **settings)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["taylor", "learned"])
def test_keeping_everything_keeps_every_bit(
    make_checkpoint, data, tmp_path, counting_reporter, kind, method
):
    settings = {"num_attention_heads": 8, "num_key_value_heads": 8} | KINDS[kind]
    source = make_checkpoint(**settings)
    config = InheritConfig(source=source.path, data=data, out=tmp_path / "out", method=method)
    result = run(replace(config, calibration_tokens=100), counting_reporter)
    assert counting_reporter.tasks == {}, "nothing to score or to learn"
    assert result.config == source.config
    assert all(torch.equal(result.tensor(name), source.tensor(name)) for name in source.names())
    metrics = result.lineage["metrics"]
    assert metrics["mask_tokens"] == metrics["calibration_tokens"] == 0


@pytest.mark.parametrize("method", ["activation", "learned"])
def test_layers_that_stay_whole_keep_their_weights(make_checkpoint, data, tmp_path, method):
    source = make_checkpoint(num_hidden_layers=3)
    result = inherit(source, data, tmp_path / "out", method=method, num_hidden_layers=2)
    metrics = result.lineage["metrics"]
    assert metrics["mask_tokens"] == 0
    for place, layer in enumerate(metrics["kept_layers"]):
        name = "mlp.down_proj.weight"
        assert torch.equal(
            result.tensor(f"model.layers.{place}.{name}"),
            source.tensor(f"model.layers.{layer}.{name}"),
        )


@pytest.mark.parametrize(
    ("method", "seed"),
    [(m, i) for i, m in enumerate(["l1", "l2", "taylor", "activation", "random"])],
)
def test_the_shape_is_the_one_asked_for(make_checkpoint, data, tmp_path, method, seed):
    rng = random.Random(seed)
    kind = KINDS[rng.choice(list(KINDS))]
    settings = {"num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 4} | kind
    source = make_checkpoint(**settings)
    groups = rng.randint(1, settings["num_key_value_heads"])
    members = rng.randint(1, source.config.group_size)
    asked = {
        "hidden_size": rng.randint(1, 32),
        "num_hidden_layers": rng.randint(1, 4),
        "intermediate_size": rng.randint(1, 44),
        "num_attention_heads": groups * members,
        "num_key_value_heads": groups,
    }
    asked["layers_method"] = rng.choice(["greedy", "one-shot", "block", "cosine", "random"])
    result = inherit(source, data, tmp_path / "out", method=method, **asked)
    del asked["layers_method"]
    assert {name: getattr(result.config, name) for name in asked} == asked
    assert result.config.head_dim == source.config.head_dim


def silence(tensors):
    """Silence 12 hidden dimensions, 20 units, 2 groups of heads and 1 layer."""
    for name, tensor in tensors.items():
        layer = layer_of(name)
        if "embed_tokens" in name or "lm_head" in name:
            tensor[:, 20:] = 0
        elif "norm" in name:
            tensor[20:] = 0
        elif "o_proj" in name or "down_proj" in name:
            tensor[20:] = 0
            if layer == 1:
                tensor.zero_()
        if "gate_proj" in name or "up_proj" in name:
            tensor[:20] = 0
        if "k_proj" in name or "v_proj" in name:
            tensor[:16] = 0
        if "q_proj" in name:
            tensor[:32] = 0


@pytest.mark.parametrize("kind", ["gqa_untied", "biased"])
def test_removing_what_is_silent_changes_nothing(make_checkpoint, data, tmp_path, kind):
    settings = {"num_attention_heads": 8, "num_hidden_layers": 3} | KINDS[kind]
    source = make_checkpoint(edit=silence, **settings)
    result = inherit(
        source, data, tmp_path / "out", hidden_size=20, intermediate_size=24, num_key_value_heads=2
    )
    metrics = result.lineage["metrics"]
    assert metrics["loss_student"] == pytest.approx(metrics["loss_source"], abs=1e-3)
    assert result.config.num_attention_heads == 4


def test_lineage_tells_what_was_dropped(make_checkpoint, data, tmp_path):
    source = make_checkpoint(num_hidden_layers=4)
    result = inherit(source, data, tmp_path / "out", num_hidden_layers=2)
    metrics = result.lineage["metrics"]
    dropped = [row["layer"] for row in metrics["dropped_layers"]]
    assert sorted(metrics["kept_layers"] + dropped) == [0, 1, 2, 3]
    assert all(isinstance(row["cost"], float) for row in metrics["dropped_layers"])
    assert metrics["calibration_tokens"] == 128
    for place, layer in enumerate(metrics["kept_layers"]):
        name = "self_attn.q_proj.weight"
        assert torch.equal(
            result.tensor(f"model.layers.{place}.{name}"),
            source.tensor(f"model.layers.{layer}.{name}"),
        )
    assert result.lineage["ancestors"][0]["sha256"] == source.sha256


def test_windows_are_no_longer_than_the_source_was_trained_on(
    make_checkpoint, data, tmp_path, trained_on
):
    source = make_checkpoint()
    assert trained_length(source) == 64
    trained = trained_on(source, 24)
    assert trained_length(trained) == 24
    student = inherit(trained, data, tmp_path / "out", num_hidden_layers=1)
    assert trained_length(student) == 24
    # Five windows of 24 are the fewest that hold the 100 tokens asked for.
    assert student.lineage["metrics"]["calibration_tokens"] == 5 * 24


def test_another_vocabulary_is_refused(
    make_checkpoint, tiny_checkpoint, tiny_text, tiny_tokenizer, data, tmp_path
):
    with pytest.raises(DataError, match=r"ids up to 96, .* vocabulary of 96;"):
        inherit(make_checkpoint(vocab_size=96), data, tmp_path / "out")
    shards = tmp_path / "shards"
    text = tmp_path / "text.txt"
    text.write_text(tiny_text.read_text(encoding="utf-8")[:20_000], encoding="utf-8")
    build(
        DataBuildConfig(
            text=(text,), tokenizer=tiny_tokenizer, out=shards, valid_fraction=0.3, processes=1
        )
    )
    inherit(tiny_checkpoint, shards, tmp_path / "out", num_hidden_layers=1)
    copy = shutil.copytree(tiny_checkpoint.path, tmp_path / "copy")
    other = tmp_path / "tokenizer"
    train_tokenizer(TokenizerTrainConfig(text=(tiny_text,), out=other, vocab_size=500))
    shutil.copyfile(other / "tokenizer.model", copy / "tokenizer.model")
    with pytest.raises(DataError, match="another tokenizer"):
        run(InheritConfig(source=copy, data=shards, out=tmp_path / "out2"))
    assert not (tmp_path / "out2").exists()


def test_nothing_is_left_behind_by_a_refusal(make_checkpoint, data, tmp_path):
    source = make_checkpoint()
    with pytest.raises(ConfigError, match="--hidden-size"):
        inherit(source, data, tmp_path / "out", hidden_size=64)
    with pytest.raises(DataError, match="does not exist"):
        inherit(source, tmp_path / "nothing", tmp_path / "out")
    broken = make_checkpoint(
        "broken", edit=lambda tensors: tensors["model.norm.weight"].fill_(torch.nan)
    )
    with pytest.raises(CheckpointError, match="not finite"):
        inherit(broken, data, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "broken", "data"}
