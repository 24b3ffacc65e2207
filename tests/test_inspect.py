import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgetiny.checkpoint import Checkpoint, ModelConfig, write_checkpoint
from edgetiny.config.model import InspectConfig
from edgetiny.errors import ArtefactError, CheckpointError
from edgetiny.init import RandomTensors
from edgetiny.inspect import run, tensor_facts

Edit = Callable[[dict[str, torch.Tensor]], None]


def _checkpoint(
    folder: Path,
    config: ModelConfig,
    *,
    edit: Edit | None = None,
    dtype: torch.dtype = torch.float32,
    parent: Checkpoint | None = None,
) -> Path:
    tensors = {
        name: tensor.to(dtype) for name, tensor in RandomTensors(config, std=0.02, seed=0).items()
    }
    if edit is not None:
        edit(tensors)
    folder.mkdir()
    write_checkpoint(
        folder, config, tensors, stage="made", settings={"a": 1}, parent=parent, tokenizer=None
    )
    return folder


def _summary(path: Path) -> dict[str, Any]:
    summary = run(InspectConfig(source=path)).summary()
    json.dumps(summary, allow_nan=False)
    return summary


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parts_add_up_to_the_whole(
    dtype: torch.dtype, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    summary = _summary(_checkpoint(tmp_path / "c", tiny_config, dtype=dtype))
    parts = summary["parts"]
    assert sum(row["parameters"] for row in parts) == summary["parameters"]
    assert sum(row["bytes"] for row in parts) == summary["size_bytes"]
    assert summary["size_bytes"] == summary["parameters"] * dtype.itemsize
    assert sum(row["percent"] for row in parts) == pytest.approx(100)
    assert parts[0]["percent"] + parts[1]["percent"] == summary["embedding_and_head_percent"]
    assert sum(row["count"] for row in summary["tensors"]) == 2 + 9 * tiny_config.num_hidden_layers


def test_an_untied_head_has_its_own_part(tiny_config: ModelConfig, tmp_path: Path) -> None:
    untied = replace(tiny_config, tie_word_embeddings=False)
    tied_row = _summary(_checkpoint(tmp_path / "tied", tiny_config))["parts"][1]
    untied_row = _summary(_checkpoint(tmp_path / "untied", untied))["parts"][1]
    assert (tied_row["part"], tied_row["bytes"]) == ("head (tied to the embedding)", 0)
    assert untied_row["parameters"] == untied.vocab_size * untied.hidden_size


def test_deviations_are_those_of_each_layer(tiny_config: ModelConfig, tmp_path: Path) -> None:
    def scale(tensors: dict[str, torch.Tensor]) -> None:
        for layer in range(tiny_config.num_hidden_layers):
            tensors[f"model.layers.{layer}.mlp.up_proj.weight"] *= 10.0 ** (layer + 1)

    path = _checkpoint(tmp_path / "c", tiny_config, edit=scale)
    rows = _summary(path)["standard_deviations"]
    assert [row["layer"] for row in rows] == list(range(tiny_config.num_hidden_layers))
    for row in rows:
        assert list(row) == ["layer", "q", "k", "v", "o", "gate", "up", "down"]
        assert row["up"] == pytest.approx(0.02 * 10.0 ** (row["layer"] + 1), rel=0.1)
        assert row["down"] == pytest.approx(0.02, rel=0.1)


def test_a_broken_value_is_named(tiny_config: ModelConfig, tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.v_proj.weight"

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name][0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])

    summary = _summary(_checkpoint(tmp_path / "c", tiny_config, edit=spoil))
    assert summary["all_values_finite"] is False
    assert summary["not_finite"] == [{"tensor": name, "nan": 1, "infinite": 2}]
    assert summary["standard_deviations"][1]["v"] is None
    assert run(InspectConfig(source=tmp_path / "c")).exit_code == 1
    assert _summary(_checkpoint(tmp_path / "sound", tiny_config))["not_finite"] == []
    assert run(InspectConfig(source=tmp_path / "sound")).exit_code == 0


def test_deviation_agrees_with_torch_over_several_blocks() -> None:
    tensor = torch.randn(2100, 2048, generator=torch.Generator().manual_seed(0)) + 3
    tensor[:100] *= 7  # blocks of unlike values
    facts = tensor_facts("t", tensor)
    assert facts.std == pytest.approx(tensor.double().std(correction=0).item())


def test_lineage_is_the_chain_oldest_first(tiny_config: ModelConfig, tmp_path: Path) -> None:
    first = Checkpoint.open(_checkpoint(tmp_path / "a", tiny_config))
    second = Checkpoint.open(_checkpoint(tmp_path / "b", tiny_config, parent=first))
    third = Checkpoint.open(_checkpoint(tmp_path / "c", tiny_config, parent=second))
    rows = _summary(third.path)["lineage"]
    chain = [first.sha256[:16], second.sha256[:16], third.sha256[:16]]
    assert [row["sha256"] for row in rows] == chain
    assert rows[0]["settings"] == {"a": 1}


def test_a_folder_of_another_tool_has_no_lineage(tiny_config: ModelConfig, tmp_path: Path) -> None:
    path = _checkpoint(tmp_path / "c", tiny_config)
    (path / "edgetiny.json").unlink()
    assert _summary(path)["lineage"] == []


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        run(InspectConfig(source=tmp_path))
    with pytest.raises(CheckpointError, match="does not exist"):
        run(InspectConfig(source=tmp_path / "none"))


@pytest.fixture
def artefact(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """Return a folder as an export leaves it, with any bytes for a graph."""
    folder = tmp_path / "artefact"
    folder.mkdir()
    shutil.copyfile(tiny_checkpoint.path / "config.json", folder / "config.json")
    (folder / "model.onnx").write_bytes(b"graph")
    files = {
        path.name: {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in folder.iterdir()
    }
    manifest = {"schema_version": 1, "precision": "int8", "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _states(summary: dict[str, Any]) -> dict[str, str]:
    return {row["file"]: row["state"] for row in summary["files"]}


def test_an_intact_artefact(artefact: Path) -> None:
    summary = _summary(artefact)
    assert summary["intact"] is True
    assert run(InspectConfig(source=artefact)).exit_code == 0
    assert summary["manifest"] == {"precision": "int8"}
    assert _states(summary) == {
        "config.json": "ok",
        "model.onnx": "ok",
        "manifest.json": "not hashed",
    }
    on_disk = sum(path.stat().st_size for path in artefact.iterdir())
    assert summary["size_bytes"] == on_disk


def test_changed_missing_and_added_files_are_told_apart(artefact: Path) -> None:
    (artefact / "model.onnx").write_bytes(b"grape")
    (artefact / "stray").write_bytes(b"")
    summary = _summary(artefact)
    assert summary["intact"] is False
    assert run(InspectConfig(source=artefact)).exit_code == 1
    assert _states(summary)["model.onnx"] == "changed"
    assert _states(summary)["stray"] == "not in the manifest"
    (artefact / "model.onnx").unlink()
    assert _states(_summary(artefact))["model.onnx"] == "missing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"schema_version": 1}', "lists no files"),
        ('{"schema_version": 99, "files": {}}', "upgrade edgetiny"),
    ],
)
def test_a_damaged_manifest_is_refused(text: str, message: str, artefact: Path) -> None:
    (artefact / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ArtefactError, match=message):
        run(InspectConfig(source=artefact))
