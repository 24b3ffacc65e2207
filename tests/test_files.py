"""Whole or not at all: what stands on disk after a good end, an error, a kill, a full disk."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgetiny.errors import CheckpointError, ConfigError, DataError
from edgetiny.files import (
    atomic_file,
    atomic_folder,
    read_json,
    read_toml,
    refuse_existing,
    remove_leftovers,
    sha256_file,
    toml_value,
    write_json,
    writing,
)

if TYPE_CHECKING:
    from edgetiny.checkpoint import Checkpoint


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ours(folder: Path, text: str) -> Path:
    """Make a folder that edgetiny could have written."""
    folder.mkdir()
    lineage = {"schema_version": 1, "stage": text, "versions": {}}
    (folder / "edgetiny.json").write_text(json.dumps(lineage), encoding="utf-8")
    return folder


def test_a_folder_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with atomic_folder(out) as folder:
        (folder / "part").mkdir()
        (folder / "part" / "a").write_text("a", encoding="utf-8")
        assert not out.exists()
    assert (out / "part" / "a").read_text(encoding="utf-8") == "a"
    assert names(out.parent) == ["out"]


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("a", encoding="utf-8")
        _ = 1 / 0
    assert names(tmp_path) == []


def test_an_error_keeps_what_stood_there(tmp_path: Path) -> None:
    out = ours(tmp_path / "out", "old")
    with pytest.raises(ZeroDivisionError), atomic_folder(out, overwrite=True) as folder:
        (folder / "edgetiny.json").write_text("new", encoding="utf-8")
        _ = 1 / 0
    assert read_json(out / "edgetiny.json")["stage"] == "old"
    assert names(tmp_path) == ["out"]


def test_overwrite_replaces_the_whole_folder(tmp_path: Path) -> None:
    out = ours(tmp_path / "out", "old")
    with atomic_folder(out, overwrite=True) as folder:
        (folder / "new").write_text("new", encoding="utf-8")
    assert names(out) == ["new"]
    assert names(tmp_path) == ["out"]


def test_an_existing_folder_needs_overwrite(tmp_path: Path) -> None:
    out = ours(tmp_path / "out", "old")
    with pytest.raises(ConfigError, match="--overwrite"), atomic_folder(out):
        pytest.fail("the block must not run")
    refuse_existing(out, overwrite=True)


def test_overwrite_spares_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ConfigError, match="was not written by edgetiny"):
        refuse_existing(tmp_path, overwrite=True)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("edgetiny.json", "mine"),
        ("manifest.json", '{"schema_version": 1, "name": "an app of the web"}'),
        ("meta.json", '{"schema_version": 1}'),
        ("demo.json", "{}"),
        ("vocab_map.json", "[]"),
        ("tokenizer_config.json", '{"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>"}'),
    ],
)
def test_overwrite_asks_what_a_marker_says(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="was not written by edgetiny"):
        refuse_existing(tmp_path, overwrite=True)


def test_overwrite_replaces_what_every_stage_writes(
    tiny_tokenizer: Path, tiny_checkpoint: "Checkpoint", tiny_text: Path, tmp_path: Path
) -> None:
    from edgetiny.config.data import DataBuildConfig
    from edgetiny.data.build import run as build
    from edgetiny.tokenizer import Tokenizer
    from edgetiny.tokenizer.compact import write_compact

    shards = tmp_path / "shards"
    build(DataBuildConfig(text=(tiny_text,), tokenizer=tiny_tokenizer, out=shards, processes=1))
    compact = tmp_path / "compact"
    compact.mkdir()
    write_compact(compact, Tokenizer.open(tiny_tokenizer), range(400))
    for folder in (tiny_checkpoint.path, tiny_tokenizer, shards, compact):
        refuse_existing(folder, overwrite=True)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "thesis.tex"])
def test_overwrite_spares_what_lies_beside_our_tokenizer(
    name: str, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_tokenizer, tmp_path / "model")
    refuse_existing(folder, overwrite=True)
    (folder / name).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="was not written by edgetiny"):
        refuse_existing(folder, overwrite=True)


def test_overwrite_makes_no_folder_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine", encoding="utf-8")
    with (
        pytest.raises(ConfigError, match="is a file"),
        atomic_folder(tmp_path / "out", overwrite=True),
    ):
        pytest.fail("the block must not run")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out").read_text(encoding="utf-8") == "mine"


def test_an_empty_folder_is_free(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty") as folder:
        (folder / "a").touch()
    assert names(tmp_path / "empty") == ["a"]


KILLED = """
import os, signal, sys
from pathlib import Path
from edgetiny.files import atomic_folder
with atomic_folder(Path(sys.argv[1]), overwrite=True) as folder:
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_the_old_folder_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    out = ours(tmp_path / "out", "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert names(out) == ["edgetiny.json"]
    assert len(names(tmp_path)) == 2
    with atomic_folder(out, overwrite=True) as folder:
        (folder / "new").touch()
    assert names(tmp_path) == ["out"]


def test_a_living_process_keeps_its_temporary_folder(tmp_path: Path) -> None:
    busy = tmp_path / f".out.tmp-{os.getppid()}"
    busy.mkdir()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    assert busy.is_dir()


def test_a_file_appears_or_stays(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "result.json"
    with atomic_file(out) as path:
        path.write_text("one", encoding="utf-8")
        assert not out.exists()
    with pytest.raises(ZeroDivisionError), atomic_file(out) as path:
        path.write_text("two", encoding="utf-8")
        _ = 1 / 0
    assert out.read_text(encoding="utf-8") == "one"
    assert names(out.parent) == ["result.json"]


def test_a_path_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=r"cannot write.*file exists"),
        atomic_folder(tmp_path / "file" / "x"),
    ):
        pytest.fail("the block must not run")


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"no space left on device.*nothing was changed"),
        writing(tmp_path),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_really_full_device_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(ConfigError, match="no space left"),
        atomic_folder(tmp_path / "out") as folder,
    ):
        (folder / "model").symlink_to("/dev/full")
        with (folder / "model").open("w", encoding="utf-8") as stream:
            stream.write("weights")
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="permission denied"), atomic_folder(tmp_path / "out"):
        pytest.fail("the block must not run")


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    payload = {"schema_version": 1, "text": "\u5c0f", "rows": [1, 2.5, None]}
    write_json(tmp_path / "a.json", payload)
    assert read_json(tmp_path / "a.json", schema_version=1) == payload
    assert "\u5c0f" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_holds_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "holds a list, not a JSON object"),
        ("{}", "has no schema_version"),
        ('{"schema_version": "1"}', "has no schema_version"),
        ('{"schema_version": 3}', "follows schema version 3, this edgetiny knows up to 2"),
    ],
)
def test_damaged_json_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_json(tmp_path / "a.json", schema_version=2)


def test_json_that_is_not_there_raises_what_the_caller_asked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_json(tmp_path / "a.json", error=CheckpointError)
    with pytest.raises(CheckpointError, match="is a folder"):
        read_json(tmp_path, error=CheckpointError)
    (tmp_path / "b.json").write_bytes(b"\xff")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        read_json(tmp_path / "b.json", error=CheckpointError)


def test_an_older_schema_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"schema_version": 1}), encoding="utf-8")
    assert read_json(tmp_path / "a.json", schema_version=2) == {"schema_version": 1}


def test_sha256_of_a_known_text(tmp_path: Path) -> None:
    # The example of FIPS 180-2, appendix B.1.
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "a") == expected


def test_toml_is_read_without_its_version(write: Callable[[str], Path]) -> None:
    assert read_toml(write("schema_version = 1\na = 2"), "thing", schema_version=2) == {"a": 2}
    assert read_toml(write("a = 2"), "thing") == {"a": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a =", r"thing .*file.toml is not valid TOML"),
        (b"\xff", r"thing .*file.toml cannot be read"),
        (b"a = 1", r"file.toml has no schema_version; is it a thing\?"),
        (b"schema_version = true", r"file.toml has no schema_version"),
        (b"schema_version = 3", r"file.toml follows schema version 3, .*up to 2; upgrade edgetiny"),
    ],
)
def test_damaged_toml_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_toml(path, "thing", schema_version=2, error=CheckpointError)


def test_toml_that_is_not_there_or_a_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"thing .*none.toml does not exist"):
        read_toml(tmp_path / "none.toml", "thing")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path, "thing")


@pytest.mark.parametrize("value", ['a"b\\c\x7f\n\u00e9', True, 3, 1e-5, ["a", "b"], 0.0, []])
def test_what_is_written_as_toml_is_read_back(value: object) -> None:
    assert tomllib.loads(f"key = {toml_value(value)}") == {"key": value}


def test_what_a_killed_start_with_our_own_number_left_is_no_obstacle(tmp_path):
    """In a container every start may have the same process id."""
    out = tmp_path / "out"
    (tmp_path / f".out.tmp-{os.getpid()}").mkdir()
    with atomic_folder(out) as folder:
        (folder / "a").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_was_moved_away_when_a_process_was_killed_comes_back(tmp_path):
    out, old = tmp_path / "out", tmp_path / ".out.old-999999999"
    old.mkdir()
    (old / "state").write_text("precious")
    remove_leftovers(out)
    assert (out / "state").read_text() == "precious"
    assert not old.exists()


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    real = tmp_path / "disk/real"
    real.mkdir(parents=True)
    out = tmp_path / "out"
    out.symlink_to(real)
    for content in ("first", "second"):
        shutil.rmtree(real)
        real.mkdir()
        with atomic_folder(out) as folder:
            (folder / "a").write_text(content)
        assert out.is_symlink()
        assert (real / "a").read_text() == content
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "out"}
    assert [path.name for path in real.parent.iterdir()] == ["real"]
