import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from safetensors import safe_open

from edgetiny.checkpoint import Checkpoint, write_checkpoint
from edgetiny.checkpoint import write as write_module
from edgetiny.checkpoint.write import generation_config, write_weights

DOCS = Path(__file__).parents[2] / "docs"


def _child(parent: Checkpoint, folder: Path) -> Checkpoint:
    folder.mkdir()
    write_checkpoint(
        folder,
        parent.config,
        parent.state_dict(),
        stage="gqa",
        settings={"groups": 2},
        parent=parent,
        tokenizer=None,
        metrics={"loss": 1.5},
    )
    return Checkpoint.open(folder)


def _validate(lineage: dict[str, Any]) -> None:
    schema = json.loads((DOCS / "schemas" / "edgetiny.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(lineage, schema)


def test_settings_of_generation_are_carried_and_ids_follow_the_model(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    parent = shutil.copytree(tiny_checkpoint.path, tmp_path / "parent")
    settings = {"do_sample": True, "temperature": 0.6, "eos_token_id": 1, "suppress_tokens": [3]}
    (parent / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    child = _child(Checkpoint.open(parent), tmp_path / "child").generation_config
    ids = {"bos_token_id": 1, "eos_token_id": [2, 1]}
    assert child == settings | ids


def test_every_end_of_a_text_is_carried_into_both_files(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    parent = shutil.copytree(tiny_checkpoint.path, tmp_path / "parent")
    settings = {"eos_token_id": [2, 5]}
    (parent / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    child = _child(Checkpoint.open(parent), tmp_path / "child")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((child.path / name).read_text())["eos_token_id"] == [2, 5]


def test_files_that_agree_are_written_as_they_are(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    child = _child(tiny_checkpoint, tmp_path / "child")
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        assert (child.path / name).read_bytes() == (tiny_checkpoint.path / name).read_bytes()


@pytest.mark.parametrize("shard_bytes", [5 * 10**9, 4000])
def test_vectors_keep_their_dtype_and_matrices_have_the_embeddings(
    tiny_checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shard_bytes: int,
) -> None:
    monkeypatch.setattr(write_module, "SHARD_BYTES", shard_bytes)
    odd = "model.layers.0.mlp.up_proj.weight"
    tensors = {
        name: tensor if tensor.ndim == 1 or name == odd else tensor.bfloat16()
        for name, tensor in tiny_checkpoint.state_dict().items()
    }
    dtype = write_weights(tmp_path, tiny_checkpoint.config, tensors)
    shutil.copy(tiny_checkpoint.path / "config.json", tmp_path)
    assert dtype == "bfloat16"
    for name, tensor in Checkpoint.open(tmp_path).state_dict().items():
        wanted = tensors[name].bfloat16() if name == odd else tensors[name]
        assert (tensor.dtype, torch.equal(tensor, wanted)) == (wanted.dtype, True), name
    index = tmp_path / "model.safetensors.index.json"
    if index.exists():
        n_bytes = sum(tensors[name].nbytes for name in tensors) - tensors[odd].nbytes // 2
        assert json.loads(index.read_text())["metadata"]["total_size"] == n_bytes


def test_a_parent_of_another_vocabulary_has_no_say_in_generation(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    parent = shutil.copytree(tiny_checkpoint.path, tmp_path / "parent")
    (parent / "generation_config.json").write_text('{"suppress_tokens": [3]}', encoding="utf-8")
    smaller = replace(tiny_checkpoint.config, vocab_size=tiny_checkpoint.config.vocab_size - 8)
    assert "suppress_tokens" not in generation_config(smaller, Checkpoint.open(parent))


def test_lineage_follows_its_schema(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    child = _child(tiny_checkpoint, tmp_path / "child")
    grandchild = _child(child, tmp_path / "grandchild")
    for checkpoint in (tiny_checkpoint, child, grandchild):
        _validate(checkpoint.lineage)
    assert [ancestor["stage"] for ancestor in grandchild.lineage["ancestors"]] == ["init", "gqa"]


def test_a_child_of_another_tools_folder_follows_the_schema(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    child = _child(tiny_checkpoint, tmp_path / "child")
    (child.path / "edgetiny.json").unlink()
    grandchild = _child(child, tmp_path / "grandchild")
    _validate(grandchild.lineage)
    [ancestor] = grandchild.lineage["ancestors"]
    assert set(ancestor) == {"sha256"}


def test_the_documented_lineage_follows_the_schema() -> None:
    page = (DOCS / "formats" / "checkpoint.md").read_text(encoding="utf-8")
    _validate(json.loads(page.split("```json\n")[1].split("```")[0]))


def test_the_documented_hash_is_the_checkpoints(tiny_checkpoint: Checkpoint) -> None:
    lines = [
        f"{name}:{hashlib.sha256((tiny_checkpoint.path / name).read_bytes()).hexdigest()}\n"
        for name in ("config.json", "model.safetensors")
    ]
    assert tiny_checkpoint.sha256 == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_the_documented_tensors_are_those_written(tiny_checkpoint: Checkpoint) -> None:
    page = (DOCS / "formats" / "checkpoint.md").read_text(encoding="utf-8")
    with safe_open(tiny_checkpoint.path / "model.safetensors", framework="pt") as file:
        names = list(file.keys())
    for name in names:
        last_two = ".".join(name.split(".")[-2:])
        assert last_two in page, name
