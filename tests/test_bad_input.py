"""What users get wrong, through the command line: one line, exit code 2, nothing left behind."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edgetiny.cli import main
from edgetiny.config.data import DataBuildConfig
from edgetiny.data.build import run as build


@pytest.fixture
def shards(tmp_path_factory, tiny_text, tiny_tokenizer):
    out = tmp_path_factory.mktemp("shards") / "shards"
    build(DataBuildConfig(text=(tiny_text,), tokenizer=tiny_tokenizer, out=out, processes=1))
    return out


@pytest.fixture
def checkpoint(tmp_path_factory, tiny_checkpoint):
    """A copy that may be damaged."""
    return shutil.copytree(tiny_checkpoint.path, tmp_path_factory.mktemp("bad") / "model")


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command that must fail; return its line. `tmp_path` is where it may write."""

    def run(*words):
        before = sorted(tmp_path.rglob("*"))
        code = main([str(word) for word in words])
        lines = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("edgetiny: ")
        ]
        assert code == 2
        assert len(lines) == 1
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return run


def test_a_missing_folder(refused, tmp_path, shards):
    line = refused("train", tmp_path / "none", "--data", shards, "--out", tmp_path / "out")
    assert f"{tmp_path / 'none'} does not exist" in line


def test_truncated_weights(refused, tmp_path, checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    line = refused("export", checkpoint, "--out", tmp_path / "out")
    assert "model.safetensors is damaged or truncated" in line


def test_pickled_weights(refused, tmp_path, checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    assert "safetensors" in refused("gqa", checkpoint, "--groups", 1, "--out", tmp_path / "out")


@pytest.mark.parametrize("command", ["train", "inherit", "export", "generate", "eval"])
def test_a_vocabulary_that_is_not_the_tokenizers(
    command, refused, tmp_path, tmp_path_factory, checkpoint, tiny_text, shards
):
    other = tmp_path_factory.mktemp("other")
    out = str(other / "tokenizer")
    assert (
        main(["tokenizer", "train", "--text", str(tiny_text), "--vocab-size", "600", "--out", out])
        == 0
    )
    for file in Path(out).iterdir():
        shutil.copyfile(file, checkpoint / file.name)
    arguments = {
        "train": ["--data", shards, "--out", tmp_path / "out"],
        "inherit": ["--data", shards, "--num-hidden-layers", 1, "--out", tmp_path / "out"],
        "export": ["--out", tmp_path / "out"],
        "generate": ["--prompt", "a"],
        "eval": ["--text", tiny_text],
    }
    assert "tokenizer" in refused(command, checkpoint, *arguments[command])


def test_an_unknown_recipe_key(refused, tmp_path, tmp_path_factory, checkpoint, shards):
    recipe = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    recipe.write_text("[train]\nlearning_rat = 0.1\n")
    line = refused(
        "train", checkpoint, "--data", shards, "--out", tmp_path / "out", "--recipe", recipe
    )
    assert "unknown key learning_rat; did you mean learning_rate?" in line


@pytest.mark.parametrize("command", ["gqa", "export"])
def test_groups_that_do_not_divide(command, refused, tmp_path, checkpoint):
    flag = {"gqa": "--groups", "export": "--gqa-groups"}[command]
    line = refused(command, checkpoint, flag, 3, "--out", tmp_path / "out")
    assert "choose from 1, 2" in line


@pytest.mark.parametrize("content", [b"", b"good\nbad \xff\xfe\n"], ids=["empty", "invalid UTF-8"])
@pytest.mark.parametrize("command", ["tokenizer train", "data build", "eval"])
def test_text_that_is_none(
    command, content, refused, tmp_path, tmp_path_factory, checkpoint, tiny_tokenizer
):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_bytes(content)
    arguments = {
        "tokenizer train": ["--vocab-size", 400, "--out", tmp_path / "out"],
        "data build": ["--tokenizer", tiny_tokenizer, "--out", tmp_path / "out"],
        "eval": [checkpoint],
    }
    line = refused(*command.split(), "--text", text, *arguments[command])
    assert ("UTF-8" in line) if content else ("text" in line)


@pytest.fixture(
    params=["init", "train", "gqa", "export", "tokenizer train", "tokenizer compress", "data build"]
)
def writing_command(request, tiny_text, tiny_tokenizer, checkpoint, shards):
    """The words of a command that writes a folder, less the folder."""
    words = {
        "init": ["--tokenizer", tiny_tokenizer, "--hidden-size", 64],
        "train": [checkpoint, "--data", shards, "--steps", 1, "--sequence-length", 16],
        "gqa": [checkpoint, "--groups", 1],
        "export": [checkpoint],
        "tokenizer train": ["--text", tiny_text, "--vocab-size", 400],
        "tokenizer compress": [checkpoint, "--text", tiny_text, "--vocab-size", 400],
        "data build": ["--text", tiny_text, "--tokenizer", tiny_tokenizer],
    }
    return [*request.param.split(), *words[request.param]]


def test_a_full_disk(writing_command, refused, tmp_path):
    mounted = tmp_path / "small"
    mounted.mkdir()
    size = ["-t", "tmpfs", "-o", "size=16k", "tmpfs"]
    if os.geteuid() or subprocess.run(["mount", *size, mounted], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        line = refused(*writing_command, "--out", mounted / "out")
        assert "no space left on device" in line.lower()
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_folder_without_write_permission(writing_command, refused, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    mounted = False
    if os.geteuid():
        locked.chmod(0o555)
    else:  # permissions do not bind the superuser, a read-only file system does
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(locked)]
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
        if not mounted:
            pytest.skip("a read-only file system cannot be mounted here")
    try:
        line = refused(*writing_command, "--out", locked / "out")
        assert str(locked) in line
        assert "permission denied" in line or "read-only" in line
    finally:
        if mounted:
            subprocess.run(["umount", locked], check=True)


def test_a_newer_schema_and_no_json(refused, checkpoint):
    (checkpoint / "config.json").write_text("{")
    assert "not valid JSON" in refused("inspect", checkpoint)
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert "model_type 'gpt2' is not supported" in refused("inspect", checkpoint)


def test_an_existing_folder_is_never_replaced_unasked(refused, tmp_path, checkpoint):
    kept = tmp_path / "out"
    kept.mkdir()
    (kept / "precious.txt").write_text("mine")
    assert "exists" in refused("gqa", checkpoint, "--groups", 1, "--out", kept)
    line = refused("gqa", checkpoint, "--groups", 1, "--out", kept, "--overwrite")
    assert "was not written by edgetiny" in line
