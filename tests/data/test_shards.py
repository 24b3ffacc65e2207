import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgetiny.config.data import DataBuildConfig
from edgetiny.data import Shards
from edgetiny.data.build import run
from edgetiny.errors import DataError


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_text: Path, tiny_tokenizer: Path) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    run(DataBuildConfig(text=(tiny_text,), tokenizer=tiny_tokenizer, out=out, processes=1))
    return out


def test_windows_lie_side_by_side_and_share_one_token(built: Path) -> None:
    train = Shards.open(built).train
    n_windows = train.n_windows(32)
    windows = train.windows(np.arange(n_windows), 32)
    assert windows.shape == (n_windows, 33)
    assert windows.dtype == np.int64
    assert np.array_equal(windows[:, :-1].ravel(), train.tokens[: n_windows * 32])
    assert np.array_equal(windows[:-1, -1], windows[1:, 0])
    assert n_windows == (len(train.tokens) - 1) // 32
    assert np.array_equal(train.windows(np.array([5, 2]), 32), windows[[5, 2]])


def test_windows_of_the_shortest_text() -> None:
    from edgetiny.data import Split

    tokens = np.arange(9, dtype=np.uint16)
    offsets = np.array([0, 9])
    split = Split(Path("x.bin"), tokens, ["x"], offsets, np.zeros(1, np.int64), None)
    assert [split.n_windows(length) for length in (8, 9, 4, 100)] == [1, 0, 2, 0]
    assert split.windows(np.array([1]), 4).tolist() == [[4, 5, 6, 7, 8]]


def test_tokens_are_mapped_and_read_only(built: Path) -> None:
    tokens = Shards.open(built).train.tokens
    assert isinstance(tokens, np.memmap)
    assert tokens.dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


def test_summary_is_plain_data(built: Path) -> None:
    shards = Shards.open(built)
    summary = json.loads(json.dumps(shards.summary()))
    assert summary["train_tokens"] == len(shards.train.tokens)
    assert [(row["split"], row["group"]) for row in summary["groups"]] == [
        ("train", "topics"),
        ("valid", "topics"),
    ]
    assert shards.document_start == 1
    assert len(shards.sha256) == 64


def _copy(built: Path, folder: Path) -> Path:
    shutil.copytree(built, folder / "copy")
    return folder / "copy"


@pytest.mark.parametrize("name", ["train.bin", "valid.idx"])
def test_a_cut_or_missing_file_is_an_error(tmp_path: Path, built: Path, name: str) -> None:
    folder = _copy(built, tmp_path)
    content = (folder / name).read_bytes()
    for cut in (0, len(content) // 2 // 8 * 8, len(content) - 1):
        (folder / name).write_bytes(content[:cut])
        with pytest.raises(DataError, match=r"cut short|cannot be read"):
            Shards.open(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name} does not exist"):
        Shards.open(folder)


def test_a_newer_or_damaged_meta_is_an_error(tmp_path: Path, built: Path) -> None:
    folder = _copy(built, tmp_path)
    meta = json.loads((folder / "meta.json").read_text())
    for change, message in (
        ({"schema_version": 2}, "schema version 2.*upgrade edgetiny"),
        ({"dtype": "float32"}, "dtype 'float32' is not uint16 or uint32"),
        ({"splits": {}}, "lacks or garbles 'train'"),
        ({"tokenizer": None}, "lacks or garbles"),
    ):
        (folder / "meta.json").write_text(json.dumps(meta | change))
        with pytest.raises(DataError, match=message):
            Shards.open(folder)


def test_what_is_no_shard_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Shards.open(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no token shards"):
        Shards.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file, not a folder"):
        Shards.open(tmp_path / "file")
