"""An output that would cost an input, or stands there as another kind, is refused at once."""

from pathlib import Path
from typing import Any

import pytest

from edgetiny.cli import main
from edgetiny.config.base import Config
from edgetiny.config.compare import CompareConfig
from edgetiny.config.data import DataBuildConfig
from edgetiny.config.demo import DemoConfig, DeviceConfig
from edgetiny.config.design import DesignConfig
from edgetiny.config.export import ExportConfig
from edgetiny.config.model import GqaConfig, InheritConfig, InitConfig
from edgetiny.config.run import BenchConfig
from edgetiny.config.tokenizer import (
    TokenizerCompressConfig,
    TokenizerMergeCountsConfig,
    TokenizerTrainConfig,
)
from edgetiny.config.train import TrainConfig
from edgetiny.errors import ConfigError

SWEEP = {"params": "1M", "sweep": 2, "tokens": "1M"}
# A stage that writes a folder, the setting of an input, and what else must be given.
FOLDERS = [
    (ExportConfig, "source", {}),
    (ExportConfig, "data", {"source": "other"}),
    (ExportConfig, "calibration_text", {"source": "other"}),
    (GqaConfig, "source", {"groups": 2}),
    (InheritConfig, "source", {"data": "shards"}),
    (InheritConfig, "data", {"source": "other"}),
    (InitConfig, "source", {"augmented_shortcut": True}),
    (InitConfig, "tokenizer", {}),
    (TokenizerTrainConfig, "text", {}),
    (TokenizerCompressConfig, "source", {"vocab_size": 400, "text": ["a.txt"]}),
    (TokenizerCompressConfig, "counts", {"vocab_size": 400, "source": "other"}),
    (DataBuildConfig, "text", {"tokenizer": "tokenizer"}),
    (DataBuildConfig, "tokenizer", {"text": ["a.txt"]}),
    (DemoConfig, "text", {}),
    (DesignConfig, "data", SWEEP),
    (DesignConfig, "data", SWEEP | {"resume": True}),
    (TrainConfig, "checkpoint", {"data": "shards"}),
    (TrainConfig, "checkpoint", {"data": "shards", "resume": True}),
    (TrainConfig, "data", {"checkpoint": "other"}),
]
FILES = [
    (BenchConfig, "out", "source", {}),
    (BenchConfig, "csv", "suite", {}),
    (CompareConfig, "markdown", "second", {"first": "first.json"}),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder, so that paths may be written as a user does."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(config: type[Config], name: str, path: Path | str, given: dict[str, Any]) -> Config:
    """Return settings in which a path, or a list of one where there may be more, is given."""
    return config.load(flags={name: [path] if name == "text" else path} | given)


@pytest.mark.parametrize(("config", "name", "given"), FOLDERS)
def test_a_folder_is_not_written_over_what_is_read(
    config: type[Config], name: str, given: dict[str, Any], here: Path
) -> None:
    (here / "run" / "inner").mkdir(parents=True)
    given = given | {"overwrite": not given.get("resume", False), "out": "run"}
    with pytest.raises(ConfigError, match=r"--out is what is read, .*run; choose another folder"):
        made(config, name, here / "run", given)
    with pytest.raises(ConfigError, match=r"--out holds what is read, .*inner; choose another"):
        made(config, name, "run/inner", given)
    # Beside it, around it and not there at all: nothing is lost.
    (here / "running").mkdir()
    for harmless in ("running", ".", "run/none", "run/../running"):
        made(config, name, harmless, given)


@pytest.mark.parametrize(("config", "out", "name", "given"), FILES)
def test_a_file_is_not_written_over_what_is_read(
    config: type[Config], out: str, name: str, given: dict[str, Any], here: Path
) -> None:
    (here / "a.json").touch()
    (here / "link.json").symlink_to("a.json")
    for path in ("a.json", here / "a.json", "link.json"):
        with pytest.raises(ConfigError, match=f"--{out} is what is read"):
            made(config, name, path, given | {out: "a.json", "overwrite": True})


def test_links_are_seen_through(here: Path) -> None:
    (here / "run").mkdir()
    (here / "text.txt").touch()
    (here / "run" / "kept.txt").touch()
    (here / "away.txt").symlink_to("run/kept.txt")
    (here / "run" / "link.txt").symlink_to("../text.txt")
    (here / "same").symlink_to("run")
    for text, out in [("away.txt", "run"), ("run/link.txt", "run"), ("run/kept.txt", "same")]:
        with pytest.raises(ConfigError, match="--out holds what is read, --text"):
            DemoConfig(text=(Path(text),), out=Path(out), overwrite=True)
    DemoConfig(text=(Path("text.txt"),), out=Path("run"), overwrite=True)


def test_a_presets_name_is_no_input(here: Path) -> None:
    (here / "mobilellm-125m").mkdir()
    name = Path("mobilellm-125m")
    InitConfig(tokenizer=Path("tokenizer"), design=name, out=name, overwrite=True)
    InheritConfig(source=Path("big"), data=Path("shards"), to=name, out=name, overwrite=True)


def test_the_other_kind_is_refused(here: Path) -> None:
    (here / "file").touch()
    (here / "folder").mkdir()
    folder, file = Path("folder"), Path("file")
    for config, given in [
        (ExportConfig, {"source": "other"}),
        (DemoConfig, {}),
        (DesignConfig, SWEEP | {"data": "shards"}),
    ]:
        with pytest.raises(ConfigError, match="--out file is a file, where a folder is written"):
            config.load(flags=given | {"out": file, "overwrite": True})
    for config, given in [
        (DeviceConfig, {}),
        (BenchConfig, {}),
        (DesignConfig, {"params": "1M", "vocab": 400}),
    ]:
        with pytest.raises(ConfigError, match="--out folder is a folder, where a file is written"):
            config.load(flags=given | {"out": folder})


def test_an_input_and_a_file_survive_the_command_line(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "demo-out").mkdir()
    (here / "demo-out" / "demo.json").write_text('{"schema_version": 1, "export_from": null}')
    (here / "demo-out" / "text.txt").write_text("mine")
    (here / "file").write_text("mine")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    for words in (
        "demo --text demo-out/text.txt --overwrite",
        "demo --out file --overwrite",
        "export demo-out --out demo-out --overwrite",
        "export demo-out --out file --overwrite",
        "design --sweep 2 --params 1M --tokens 1M --data demo-out --out file --overwrite",
    ):
        assert main(words.split()) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_counts_are_added_to_a_file_of_counts(here: Path) -> None:
    (here / "total.json").write_text("{}")
    counts = (Path("total.json"), Path("day7.json"))
    TokenizerMergeCountsConfig(counts=counts, out=Path("total.json"), overwrite=True)
