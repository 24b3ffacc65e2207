"""What users get wrong with exports, through the command line: one line, nothing left behind."""

import json
import shutil
import sys

import pytest

from edgetiny.cli import main
from edgetiny.files import sha256_file

pytest.importorskip("onnxruntime")


@pytest.fixture
def refused(capsys):
    """Run a command that must fail; return its line."""

    def run(*words):
        assert main([str(word) for word in words]) == 2
        lines = [
            line for line in capsys.readouterr().err.splitlines() if line.startswith("edgetiny: ")
        ]
        assert len(lines) == 1
        return lines[0]

    return run


@pytest.fixture
def damaged(tiny_artefact, tmp_path):
    """A copy of an artefact that may be damaged."""
    return shutil.copytree(tiny_artefact, tmp_path / "artefact")


def edit_manifest(artefact, **changes):
    path = artefact / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gqa-groups", 3], "choose from 1, 2"),
        (["--context", 129], "--context 129 is beyond the model's 128 positions"),
        (["--layout", "transformers-js", "--batch", 2], "drop --batch 2"),
        (["--batch", 0], "--batch must be at least 1"),
        (["--precision", "fp32", "--method", "hqq"], "--method hqq is of int4 weights"),
        (["--gqa-pool", "aligned"], "give --gqa-groups too"),
        (["--gqa-groups", 1, "--gqa-pool", "aligned"], "looks at text: give --data"),
        (["--format", "gguf", "--kv", "int8"], "--kv may be fp16"),
        (["--target", "cuda", "--precision", "fp16"], "--allow-unverified"),
        (["--target", "cuda"], "choose fp16"),
        (["--precision", "fp32", "--kernel", "dynamic"], "--kernel dynamic is of int8 and int4"),
        (["--batch", 20, "--block-size", 64], "onnx int8, batch 20 has none"),
    ],
)
@pytest.mark.parametrize("forecast", [[], ["--dry-run"]], ids=["export", "dry run"])
def test_an_export_that_cannot_be(flags, message, forecast, tiny_checkpoint, refused, tmp_path):
    words = ["export", tiny_checkpoint.path, *flags, "--out", tmp_path / "out", *forecast]
    if forecast and any(flag in flags for flag in ("--kv", "--target", "aligned")):
        pytest.skip("a dry run says this in a row of its table")
    assert message in refused(*words)
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_named_with_its_command(
    tiny_checkpoint, refused, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.delitem(sys.modules, "edgetiny.export.gguf_write", raising=False)
    line = refused("export", tiny_checkpoint.path, "--format", "gguf", "--out", tmp_path / "out")
    assert "pip install 'edgetiny[gguf]'" in line
    assert list(tmp_path.iterdir()) == []


def test_two_exports_into_one_folder(tiny_checkpoint, damaged, refused):
    before = {path.name: path.read_bytes() for path in damaged.iterdir()}
    line = refused("export", tiny_checkpoint.path, "--out", damaged)
    assert "exists" in line
    assert before == {path.name: path.read_bytes() for path in damaged.iterdir()}
    assert [path.name for path in damaged.parent.iterdir()] == [damaged.name]


@pytest.mark.parametrize("command", ["verify", "generate", "bench", "eval"])
@pytest.mark.parametrize("file", ["model.onnx.data", "tokenizer.json"])
def test_a_file_that_is_not_what_was_exported(
    command, file, damaged, refused, tiny_checkpoint, tiny_text
):
    content = bytearray((damaged / file).read_bytes())
    content[len(content) // 2] ^= 1
    (damaged / file).write_bytes(content)
    flags = {
        "verify": ["--against", tiny_checkpoint.path],
        "generate": ["--prompt", "a"],
        "bench": ["--new-tokens", 2],
        "eval": ["--text", tiny_text],
    }
    line = refused(command, damaged, *flags[command])
    assert f"{damaged / file} is not the file that was exported" in line


@pytest.mark.parametrize("command", ["verify", "generate", "inspect"])
def test_an_artefact_of_a_newer_edgetiny(command, damaged, refused, tiny_checkpoint):
    edit_manifest(damaged, schema_version=99)
    flags = {"verify": ["--against", tiny_checkpoint.path], "generate": ["--prompt", "a"]}
    line = refused(command, damaged, *flags.get(command, []))
    assert "schema version 99" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": []}, "does not list a model"),
        ({"files": {"model.onnx": {"bytes": 1}}}, "lacks the size or the hash of model.onnx"),
    ],
)
def test_a_manifest_that_lost_a_part(changes, message, damaged, refused):
    edit_manifest(damaged, **changes)
    assert message in refused("generate", damaged, "--prompt", "a")


def test_a_file_without_a_hash_is_not_loaded(damaged, refused):
    files = json.loads((damaged / "manifest.json").read_text())["files"]
    del files["model.onnx"]
    edit_manifest(damaged, files=files)
    assert "does not list model.onnx" in refused("generate", damaged, "--prompt", "a")


def test_an_operation_that_this_onnxruntime_does_not_know(damaged, refused):
    onnx = pytest.importorskip("onnx")
    path = damaged / "model.onnx"
    graph = onnx.load(path, load_external_data=False)
    graph.graph.node[0].op_type = "NoSuchOperation"
    onnx.save(graph, path)
    manifest = json.loads((damaged / "manifest.json").read_text())
    files = manifest["files"] | {
        "model.onnx": {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    }
    edit_manifest(damaged, files=files)
    line = refused("generate", damaged, "--prompt", "a")
    assert "cannot load" in line
    assert "NoSuchOperation" in line
