import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes, write_checkpoint
from edgetiny.checkpoint import write as write_module
from edgetiny.errors import CheckpointError
from edgetiny.files import atomic_folder

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    bos_token_id=1,
    eos_token_ids=(2,),
)


def random_tensors(config=CONFIG):
    generator = torch.Generator().manual_seed(0)
    shapes = parameter_shapes(config)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write(folder, config=CONFIG, tensors=None, parent=None):
    with atomic_folder(folder) as temporary:
        write_checkpoint(
            temporary,
            config,
            tensors or random_tensors(config),
            stage="init",
            settings={"seed": 0},
            parent=parent,
            tokenizer=None,
        )
    return Checkpoint.open(folder)


def test_what_is_written_is_read_back(tmp_path):
    checkpoint = write(tmp_path / "a")
    assert checkpoint.config == CONFIG
    for name, tensor in random_tensors().items():
        assert torch.equal(checkpoint.tensor(name), tensor)


def test_shards_with_an_index_above_the_limit(tmp_path, monkeypatch):
    whole = write(tmp_path / "whole")
    monkeypatch.setattr(write_module, "SHARD_BYTES", 4000)
    sharded = write(tmp_path / "sharded")
    assert len(list(sharded.path.glob("model-*-of-*.safetensors"))) > 1
    for name, tensor in whole.state_dict().items():
        assert torch.equal(sharded.tensor(name), tensor)


def test_views_into_a_larger_tensor_are_written_alone(tmp_path):
    tensors = random_tensors()
    big = torch.randn(200, 16)
    tensors["model.embed_tokens.weight"] = big[:64]
    checkpoint = write(tmp_path / "a", tensors=tensors)
    n_bytes = sum(tensor.nbytes for tensor in checkpoint.state_dict().values())
    assert (checkpoint.path / "model.safetensors").stat().st_size < n_bytes + 4000
    assert torch.equal(checkpoint.tensor("model.embed_tokens.weight"), big[:64])


def test_lineage_names_every_ancestor(tmp_path):
    first = write(tmp_path / "first")
    second = write(tmp_path / "second", parent=first)
    third = write(tmp_path / "third", parent=second)
    ancestors = third.lineage["ancestors"]
    assert [ancestor["sha256"] for ancestor in ancestors] == [first.sha256, second.sha256]


def test_hash_changes_with_the_weights(tmp_path):
    tensors = random_tensors()
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    assert write(tmp_path / "a").sha256 == write(tmp_path / "b").sha256
    assert write(tmp_path / "c", tensors=tensors).sha256 != write(tmp_path / "d").sha256


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_missing_unexpected_and_misshapen_tensors_are_named(tmp_path):
    write(tmp_path / "a")
    cases = {
        "missing": lambda t: t.pop("model.norm.weight"),
        "not part": lambda t: t.update(extra=torch.zeros(1)),
        "has shape": lambda t: t.update({"model.norm.weight": torch.zeros(3)}),
    }
    for message, change in cases.items():
        shutil.copytree(tmp_path / "a", tmp_path / message)
        rewrite(tmp_path / message, change)
        with pytest.raises(CheckpointError, match=message):
            Checkpoint.open(tmp_path / message)


def test_a_tied_head_that_differs_is_refused_and_one_that_equals_is_read(tmp_path):
    folder = write(tmp_path / "a").path
    embedding = random_tensors()["model.embed_tokens.weight"]
    rewrite(folder, lambda t: t.update({"lm_head.weight": embedding.clone()}))
    assert "lm_head.weight" not in Checkpoint.open(folder).names()
    rewrite(folder, lambda t: t.update({"lm_head.weight": embedding + 1}))
    with pytest.raises(CheckpointError, match="ties the head"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -10])
def test_truncated_weights(tmp_path, keep):
    folder = write(tmp_path / "a").path
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        Checkpoint.open(folder)


def test_pickled_weights_are_never_loaded(tmp_path):
    folder = write(tmp_path / "a").path
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        Checkpoint.open(folder)


def test_ids_that_only_the_generation_config_names_end_a_text_too(tmp_path):
    folder = write(tmp_path / "a").path
    settings = folder / "generation_config.json"
    for named, ends in (([2, 5], (2, 5)), (7, (2, 7)), ([5, 2, 5], (2, 5)), (None, (2,))):
        settings.write_text(json.dumps({"eos_token_id": named}))
        assert Checkpoint.open(folder).config.eos_token_ids == ends
    settings.unlink()
    assert Checkpoint.open(folder).config.eos_token_ids == (2,)
    settings.write_text('{"eos_token_id": ["</s>"]}')
    with pytest.raises(CheckpointError, match=r"generation_config\.json: eos_token_id"):
        Checkpoint.open(folder)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        Checkpoint.open(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        Checkpoint.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        Checkpoint.open(tmp_path / "file")


def test_a_newer_lineage_is_refused(tmp_path):
    checkpoint = write(tmp_path / "a")
    path = checkpoint.path / "edgetiny.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(CheckpointError, match="upgrade edgetiny"):
        _ = checkpoint.lineage


def test_a_hub_reference_that_cannot_be_had_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="hf:nobody/nothing") as caught:
        Checkpoint.open("hf:nobody/nothing")
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="of the form"):
        Checkpoint.open("hf:nobody")
