"""The command line as a person meets it: exit codes, one-line errors, help, quick start."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from edgetiny.checkpoint import Checkpoint
from edgetiny.cli import COMMANDS, Command, main
from edgetiny.config.base import flag_name
from edgetiny.config.stages import STAGES

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
IDS = [command.words for command in COMMANDS]


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python as a process of its own, with this checkout's edgetiny."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what stands on standard error, which must be one line of ours."""
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("edgetiny: error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_every_stage_has_a_command_and_every_command_a_stage() -> None:
    assert {command.config for command in COMMANDS} == set(STAGES.values())
    assert len(set(IDS)) == len(IDS)


@pytest.mark.parametrize("command", COMMANDS, ids=IDS)
def test_help_shows_every_setting(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.words.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert command.help in out
    for spec in fields(command.config):
        assert flag_name(spec) in out
    has_settings = bool(fields(command.config))
    assert ("--recipe" in out) == has_settings, "a flag that could do nothing"
    assert "--json" in out


def test_help_shows_defaults_and_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "sequences in one forward pass [default: 8; at least 1]" in words
    assert "token shards [required]" in words
    assert "--device cpu|cuda" in words
    assert "--resume / --no-resume" in words


@pytest.mark.parametrize("arguments", [[], ["tokenizer"], ["data"]])
def test_no_command_shows_the_help_and_is_an_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "Commands:" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("edgetiny 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "No such command 'trian'"),
        (["train", "--stepss", "3"], "--steps"),
        (["train", "a", "b"], "unexpected extra argument"),
        (["train", "a", "--steps", "many"], "'--steps'"),
        (["train"], "CHECKPOINT is missing"),
        (["train", "a", "--data", "b"], "--out is missing"),
        (["train", "a", "--data", "b", "--out", "c", "--steps", "0"], "--steps must be at least 1"),
        (["export", "--precision", "int3"], "one of fp32, fp16, int8, int4, not 'int3'"),
        (["train", "--recipe", "none.toml"], "none.toml does not exist"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in error_line(capsys)


def test_a_missing_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, out = tmp_path / "missing.txt", tmp_path / "tokenizer"
    arguments = ["tokenizer", "train", "--text", str(missing), "--out", str(out), "--quiet"]
    assert main(arguments) == 2
    assert "missing.txt" in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_flags_reach_the_stage_and_json_is_all_there_is(
    tiny_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'[tokenizer_train]\ntext = ["{tiny_text}"]\nvocab_size = 400\n', encoding="utf-8"
    )
    out = tmp_path / "tokenizer"
    arguments = ["tokenizer", "train", "--recipe", str(recipe), "--out", str(out), "--json"]
    assert main([*arguments, "--vocab-size", "500"]) == 0
    assert json.loads(capsys.readouterr().out)["vocab_size"] == 500
    assert main([*arguments, "--overwrite"]) == 0
    assert json.loads(capsys.readouterr().out)["vocab_size"] == 400


def test_a_repeated_option_is_a_list(
    tiny_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tokenizer"
    text = ["--text", str(tiny_text), "--text", str(tiny_text)]
    arguments = ["tokenizer", "train", *text, "--out", str(out), "--vocab-size", "400", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == 2 * tiny_text.stat().st_size


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "a"]])
def test_help_and_usage_errors_load_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from edgetiny.cli import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'transformers', 'safetensors'};"
        "loaded = heavy & sys.modules.keys(); print(loaded); sys.exit(len(loaded))"
    )
    done = python("-c", program, *arguments)
    assert done.returncode == 0, done.stdout


def test_a_missing_extra_says_what_to_install(tmp_path: Path, tiny_checkpoint: Checkpoint) -> None:
    # What an installation without the extra meets: the import fails.
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['onnx', 'onnx_ir', 'onnxruntime']));"
        "from edgetiny.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    source, out = str(tiny_checkpoint.path), str(tmp_path / "artefact")
    done = python("-c", program, "export", source, "--out", out, "--quiet")
    assert done.returncode == 2
    assert "pip install 'edgetiny[onnx]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early_is_no_accident() -> None:
    command = [sys.executable, "-m", "edgetiny", "train", "--help"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate()
    assert errors == ""


def test_the_command_page_is_what_help_says() -> None:
    done = python(ROOT / "docs" / "generate_cli.py", "--check")
    assert done.returncode == 0, done.stderr


def readme_commands() -> list[str]:
    """Return every `edgetiny ...` of the README, less comments."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^edgetiny [^#\n]*", text, flags=re.MULTILINE)
    inline = re.findall(r"`(edgetiny [^`]*)`", text.replace("\n", " "))
    return [command.strip() for command in blocks + inline]


def test_the_readme_shows_commands() -> None:
    assert len(readme_commands()) > 10


@pytest.mark.parametrize("line", readme_commands())
def test_the_readme_uses_flags_that_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    known = [command for command in COMMANDS if line.startswith(f"edgetiny {command.words}")]
    assert known, f"no such command: {line}"
    assert main([*known[-1].words.split(), "--help"]) == 0
    help = capsys.readouterr().out
    for flag in re.findall(r"--[a-z-]+", line):
        assert f"{flag} " in help, line
