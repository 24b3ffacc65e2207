import io
import json
import os
import shutil
import subprocess
import sys

import pytest

from edgetiny.config.run import GenerateConfig
from edgetiny.errors import CheckpointError, ConfigError, DataError, DeviceError
from edgetiny.generate import run


def generate(source, prompt="The", **settings):
    out = io.StringIO()
    config = GenerateConfig(source=source, prompt=prompt, threads=1, **settings)
    reply = run(config, stream_to=out)
    return out.getvalue(), reply


def edgetiny(*arguments, stdin=b"", **environment):
    return subprocess.run(
        [sys.executable, "-m", "edgetiny", "generate", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=os.environ | environment,
        check=False,
    )


def test_text_is_streamed_and_returned(tiny_checkpoint):
    shown, reply = generate(tiny_checkpoint.path, max_new_tokens=12)
    assert shown == reply.text + "\n"
    assert reply.summary()["stop_reason"] in ("eos", "max_new_tokens")


def test_empty_prompt_starts_from_bos(tiny_checkpoint):
    _, reply = generate(tiny_checkpoint.path, prompt="", max_new_tokens=4)
    assert reply.prompt_tokens == 1


def test_every_sampling_setting_counts(tiny_checkpoint):
    def text(**settings):
        return generate(tiny_checkpoint.path, max_new_tokens=16, **settings)[0]

    warm = text(temperature=2.0)
    assert warm != text()
    assert warm != text(temperature=2.0, seed=1)
    assert text(temperature=2.0, top_p=0.0) == text()
    stop = warm[3:6]
    assert text(temperature=2.0, stop=(stop,)) == warm[: warm.index(stop)] + "\n"


def test_stopping_at_the_context_is_said(make_checkpoint, tiny_tokenizer):
    from rich.console import Console

    from edgetiny.console import Reporter

    source = make_checkpoint(
        vocab_size=512, max_position_embeddings=6, eos_token_ids=(), tokenizer=tiny_tokenizer
    )
    reporter = Reporter()
    reporter.console = Console(file=io.StringIO())
    config = GenerateConfig(source=source.path, max_new_tokens=30, temperature=1.0, threads=1)
    reply = run(config, reporter, io.StringIO())
    assert reply.stop_reason == "context"
    assert reporter.console.file.getvalue() == "stopped: the context of 6 tokens is full\n"


@pytest.mark.parametrize("vocab_size", [511, 512 + 1025])
def test_a_tokenizer_of_another_model_is_refused(make_checkpoint, tiny_tokenizer, vocab_size):
    source = make_checkpoint(vocab_size=vocab_size, tokenizer=tiny_tokenizer)
    with pytest.raises(CheckpointError, match=f"512 pieces.* vocabulary of {vocab_size}"):
        generate(source.path)


def test_bad_input_is_refused(make_checkpoint, tiny_checkpoint, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        generate(tmp_path / "nothing")
    with pytest.raises(DataError, match="no tokenizer"):
        generate(make_checkpoint().path)
    with pytest.raises(ConfigError, match="not valid UTF-8"):
        generate(tiny_checkpoint.path, prompt="\udcff")
    with pytest.raises(ConfigError, match="beyond the context of 128"):
        generate(tiny_checkpoint.path, prompt="x " * 200)
    with pytest.raises(ConfigError, match="--stop must not be empty"):
        generate(tiny_checkpoint.path, stop=("",))


@pytest.mark.slow
def test_standard_output_holds_the_text_alone(tiny_checkpoint):
    text, _ = generate(tiny_checkpoint.path, prompt="The", max_new_tokens=8)
    flags = (tiny_checkpoint.path, "--max-new-tokens", 8, "--threads", 1)
    plain = edgetiny(*flags, "--prompt", "-", stdin=b"The\n")
    assert (plain.returncode, plain.stdout.decode()) == (0, text)
    assert b"decode tok s" in plain.stderr
    assert text.strip().encode() not in plain.stderr
    as_json = edgetiny(*flags, "--prompt", "The", "--json")
    assert json.loads(as_json.stdout)["text"] + "\n" == text
    latin = edgetiny(*flags, "--prompt", "The", PYTHONIOENCODING="ascii")
    assert latin.returncode == 0
    wrong = edgetiny(*flags, "--prompt", "-", stdin=b"\xff")
    assert (wrong.returncode, wrong.stderr.count(b"\n")) == (2, 1)


def test_a_damaged_checkpoint_is_one_clear_error(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint.path, tmp_path / "copy")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        generate(folder)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.slow
def test_the_graph_runtime_writes_the_same_text(tiny_checkpoint):
    shown, _ = generate(tiny_checkpoint.path, max_new_tokens=12)
    assert generate(tiny_checkpoint.path, max_new_tokens=12, runtime="graph")[0] == shown


def test_a_runtime_that_does_not_run_the_folder_is_refused(tiny_checkpoint, tiny_artefact):
    with pytest.raises(ConfigError, match="runs artefacts"):
        generate(tiny_checkpoint.path, runtime="onnx")
    with pytest.raises(ConfigError, match="it runs in the onnx runtime"):
        generate(tiny_artefact, runtime="graph")


def test_a_gpu_that_is_not_there_is_refused(tiny_checkpoint):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(DeviceError, match="no CUDA device here"):
        generate(tiny_checkpoint.path, device="cuda")


def test_a_format_is_a_runtime_so_only_one_is_given(tmp_path):
    with pytest.raises(ConfigError, match="leave --runtime out"):
        GenerateConfig(source=tmp_path, format="onnx", runtime="eager")
