"""What users get wrong, through the command line: one line, exit code 2, nothing left behind."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

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
@pytest.mark.parametrize(
    "command",
    [
        "tokenizer train",
        "tokenizer count",
        "tokenizer report",
        "tokenizer compress",
        "data build",
        "eval",
    ],
)
def test_text_that_is_none(
    command, content, refused, tmp_path, tmp_path_factory, checkpoint, tiny_tokenizer
):
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_bytes(content)
    arguments = {
        "tokenizer train": ["--vocab-size", 400, "--out", tmp_path / "out"],
        "tokenizer count": [tiny_tokenizer, "--out", tmp_path / "out.json"],
        "tokenizer report": [tiny_tokenizer, "--out", tmp_path / "out.html"],
        "tokenizer compress": [checkpoint, "--vocab-size", 400, "--out", tmp_path / "out"],
        "data build": ["--tokenizer", tiny_tokenizer, "--out", tmp_path / "out"],
        "eval": [checkpoint],
    }
    line = refused(*command.split(), "--text", text, *arguments[command])
    assert ("UTF-8" in line) if content else ("text" in line)


@pytest.fixture
def counts(tmp_path_factory, tiny_text, tiny_tokenizer):
    out = tmp_path_factory.mktemp("counts") / "counts.json"
    words = ["tokenizer", "count", tiny_tokenizer, "--text", tiny_text, "--out", out, "--quiet"]
    assert main([str(word) for word in words]) == 0
    return out


@pytest.fixture
def other_tokenizer(tmp_path_factory, tiny_text):
    out = tmp_path_factory.mktemp("other") / "tokenizer"
    words = ["tokenizer", "train", "--text", tiny_text, "--vocab-size", 600, "--out", out]
    assert main([*(str(word) for word in words), "--quiet"]) == 0
    return out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--vocab-size", 200], "choose from 259 to 511"),
        (["--vocab-size", 512], "choose from 259 to 511"),
        (["--vocab-size", 48_000], "choose from 259 to 511"),
        (["--coverage", 1.0], "--coverage 1.0 cannot be reached with 448 pieces"),
        (["--coverage", 1.5], "--coverage must be at most 1"),
        ([], "give one of --vocab-size, --coverage and --auto"),
        (["--vocab-size", 400, "--auto"], "give one of --vocab-size, --coverage and --auto"),
        (["--vocab-size", 400, "--max-growth", 0.1], "give it with --auto"),
        (["--vocab-size", 400, "--text", "-"], "tokenizer count --text - --out counts.json"),
        (["--coverage", 0.9, "--retrain"], "--retrain learns --vocab-size pieces"),
        (["--vocab-size", 400, "--keep", "none.txt"], "none.txt cannot be read"),
    ],
)
@pytest.mark.parametrize("source", ["tokenizer", "checkpoint"])
def test_a_vocabulary_that_cannot_be(
    flags, message, source, refused, tmp_path, checkpoint, tiny_tokenizer, tiny_text
):
    given = {"tokenizer": tiny_tokenizer, "checkpoint": checkpoint}[source]
    words = ["tokenizer", "compress", given, "--text", tiny_text, "--out", tmp_path / "out"]
    assert message in refused(*words, *flags)


def test_auto_without_a_size_to_recommend(refused, tmp_path, checkpoint, tiny_text):
    words = ["tokenizer", "compress", checkpoint, "--text", tiny_text, "--out", tmp_path / "out"]
    assert "--auto finds no size to recommend: no size holds" in refused(*words, "--auto")


def test_counts_of_another_tokenizer(
    refused, tmp_path, tmp_path_factory, counts, other_tokenizer, tiny_text
):
    out = ["--out", tmp_path / "out"]
    line = refused(
        "tokenizer", "compress", other_tokenizer, "--counts", counts, "--vocab-size", 400, *out
    )
    assert "counts the tokens of another tokenizer" in line
    others = tmp_path_factory.mktemp("counts") / "others.json"
    words = ["tokenizer", "count", other_tokenizer, "--text", tiny_text, "--out", others]
    assert main([*(str(word) for word in words), "--quiet"]) == 0
    line = refused("tokenizer", "merge-counts", counts, others, *out)
    assert "are counts of different tokenizers" in line
    line = refused("tokenizer", "merge-counts", counts, counts, *out)
    assert "named twice" in line


def test_counts_that_are_none(refused, tmp_path, tmp_path_factory, counts, tiny_tokenizer):
    out = ["--out", tmp_path / "out"]
    assert "does not exist" in refused("tokenizer", "merge-counts", counts, "none.json", *out)
    bad = tmp_path_factory.mktemp("bad") / "counts.json"
    for content, message in [
        ("{", "not valid JSON"),
        ("{}", "schema_version"),
        ('{"schema_version": 2}', "follows schema version 2"),
        ('{"schema_version": 1}', "is no counts file"),
        (counts.read_text()[:-200], "not valid JSON"),
    ]:
        bad.write_text(content)
        line = refused(
            "tokenizer", "compress", tiny_tokenizer, "--counts", bad, "--vocab-size", 400, *out
        )
        assert message in line


@pytest.mark.parametrize("command", ["count", "compress", "report"])
@pytest.mark.parametrize("kind", ["truncated model", "truncated json", "word piece", "nothing"])
def test_a_tokenizer_that_is_none(
    command, kind, refused, tmp_path, tmp_path_factory, tiny_tokenizer, tiny_text
):
    folder = tmp_path_factory.mktemp("bad")
    if kind == "truncated model":
        content = (tiny_tokenizer / "tokenizer.model").read_bytes()
        (folder / "tokenizer.model").write_bytes(content[: len(content) // 2])
    elif kind == "truncated json":
        content = (tiny_tokenizer / "tokenizer.json").read_bytes()
        (folder / "tokenizer.json").write_bytes(content[: len(content) // 2])
    elif kind == "word piece":
        (folder / "tokenizer.json").write_text('{"model": {"type": "WordPiece", "vocab": {}}}')
    flags = {"compress": ["--vocab-size", 400]}.get(command, [])
    words = ["tokenizer", command, folder, "--text", tiny_text, "--out", tmp_path / "out"]
    line = refused(*words, *flags)
    assert {
        "truncated model": "damaged",
        "truncated json": "damaged or truncated",
        "word piece": "is a WordPiece tokenizer.json; supported is BPE",
        "nothing": "holds no tokenizer",
    }[kind] in line


def test_two_speeds_and_a_format_for_nothing(refused, tmp_path, tiny_tokenizer, tiny_text):
    words = ["tokenizer", "report", tiny_tokenizer, "--text", tiny_text]
    assert "give one" in refused(*words, "--tok-s", 1, "--result", "result.json")
    assert "which is not given" in refused(*words, "--overwrite")
    assert "for standard input" in refused(*words, "--text-format", "jsonl")


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--device", "cuda"], "no CUDA device here"),
        (["--device", "cuda:1"], "must be one of cpu, cuda, android"),
        (["--suite", "newer.toml"], "schema version 2, this edgetiny knows up to 1"),
        (["--suite", "typo.toml"], "unknown key batch; did you mean batches?"),
        (["--suite", "good.toml", "--batch", 10**9], "needs"),
        (["--suite", "good.toml", "--precision", "fp16"], "many times slower"),
        (["good.toml", "--suite", "good.toml"], "not both"),
        (["missing.toml"], "does not exist"),
        (["artefact", "--batch", 5], "at most 4 sequences together, not 5"),
        (["artefact", "--runtime", "graph"], "is an artefact; --runtime eager and graph take"),
        (["artefact", "--precision", "bf16"], "--precision does not apply"),
    ],
)
def test_a_benchmark_that_cannot_be(
    words, message, refused, tmp_path, tmp_path_factory, checkpoint
):
    given = tmp_path_factory.mktemp("given")
    design = "name = 'a'\nnum_hidden_layers = 2\nhidden_size = 32\nintermediate_size = 64\n"
    design += "num_attention_heads = 4\nvocab_size = 97\n"
    suite = f"schema_version = 1\nname = 's'\n[protocol]\nbatches = [1]\n[[designs]]\n{design}"
    (given / "good.toml").write_text(suite)
    (given / "newer.toml").write_text(suite.replace("version = 1", "version = 2"))
    (given / "typo.toml").write_text(suite.replace("batches", "batch"))
    shutil.copytree(checkpoint, given / "artefact")
    manifest = {"precision": "int8", "kv_dtype": "fp32", "compute_dtype": "fp32", "context": 600}
    manifest |= {"schema_version": 1, "max_batch": 4}
    manifest["files"] = {"model.onnx": {"bytes": 9, "sha256": "0" * 64}}
    (given / "artefact" / "manifest.json").write_text(json.dumps(manifest))
    words = [given / word if (given / str(word)).exists() else word for word in words]
    out = ["--out", tmp_path / "new" / "r.json", "--report", tmp_path / "r.html"]
    assert message in refused("bench", *words, *out)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--hidden-size", 4096, "hidden_size"),
        ("--num-hidden-layers", 99, "num_hidden_layers"),
        ("--intermediate-size", 4096, "intermediate_size"),
        ("--num-attention-heads", 64, "num_attention_heads"),
        ("--num-key-value-heads", 64, "num_key_value_heads"),
    ],
)
def test_a_student_larger_than_its_teacher(
    flag, value, said, refused, tmp_path, checkpoint, shards
):
    line = refused("inherit", checkpoint, "--data", shards, flag, value, "--out", tmp_path / "out")
    assert said in line.replace("-", "_")


def test_heads_of_a_student_that_do_not_divide(refused, tmp_path, checkpoint, shards):
    heads = ["--num-attention-heads", 3, "--num-key-value-heads", 2]
    line = refused("inherit", checkpoint, "--data", shards, *heads, "--out", tmp_path / "out")
    assert "--num-attention-heads 3 cannot be reached with 2" in line


@pytest.mark.parametrize("command", ["inherit", "importance"])
def test_a_teacher_that_is_no_llama(command, refused, tmp_path, checkpoint, shards):
    path = checkpoint / "config.json"
    config = json.loads(path.read_text()) | {"model_type": "gpt2", "architectures": ["GPT2LMHead"]}
    path.write_text(json.dumps(config))
    arguments = {"inherit": ["--num-hidden-layers", 1], "importance": ["--layers"]}[command]
    out = ["--out", tmp_path / "out"]
    assert "gpt2" in refused(command, checkpoint, "--data", shards, *arguments, *out)


@pytest.mark.parametrize("method", ["l1", "activation", "taylor"])
def test_weights_that_are_not_finite(method, refused, tmp_path, checkpoint, shards):
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    wanted = ["--intermediate-size", 8, "--method", method, "--out", tmp_path / "out"]
    line = refused("inherit", checkpoint, "--data", shards, *wanted)
    assert "finite" in line or "NaN" in line


def test_text_shorter_than_a_window(
    refused, tmp_path, checkpoint, tmp_path_factory, tiny_tokenizer
):
    folder = tmp_path_factory.mktemp("short")
    (folder / "text.txt").write_text("a\n")
    text, out = (folder / "text.txt",), folder / "shards"
    build(DataBuildConfig(text=text, tokenizer=tiny_tokenizer, out=out, processes=1))
    wanted = ["--num-hidden-layers", 1, "--out", tmp_path / "out"]
    assert "window" in refused("inherit", checkpoint, "--data", out, *wanted)


def test_a_promise_that_no_design_keeps(refused, tmp_path, checkpoint):
    promise = ["--max-mb", 0.000001, "--context", 64, "--out", tmp_path / "recipe.toml"]
    line = refused("design", "--from", checkpoint, *promise)
    assert "--max-mb" in line
