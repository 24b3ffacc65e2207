import json
import shutil
import tempfile
from pathlib import Path

import pytest

from edgetiny.train.log import LOG_FILE, Log, truncate


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / LOG_FILE).read_text().splitlines()]


def test_it_forgets_what_came_after_the_step(tmp_path: Path) -> None:
    with Log(tmp_path, step=0, tensorboard=False) as log:
        for step in range(1, 6):
            log.step({"step": step, "loss": float(step)})
        log.validation(5, 1.0, {"all": 2.0})
    with Log(tmp_path, step=3, tensorboard=False) as log:
        assert log.mean_loss == 2.0
        log.step({"step": 4, "loss": 10.0})
    assert [record["step"] for record in lines(tmp_path)] == [1, 2, 3, 4]
    assert lines(tmp_path)[-1]["loss"] == 10.0


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', "\x00\x00", "17", '{"loss": 1}', "\xff"])
def test_a_torn_line_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / LOG_FILE
    path.write_bytes(b'{"step": 1, "loss": 4.0}\n' + torn.encode("latin-1"))
    assert truncate(path, step=9) == [{"step": 1, "loss": 4.0}]
    assert lines(tmp_path) == [{"step": 1, "loss": 4.0}]


def test_the_mean_is_of_the_last_hundred(tmp_path: Path) -> None:
    with Log(tmp_path, step=0, tensorboard=False) as log:
        assert log.mean_loss is None
        for step in range(150):
            log.step({"step": step, "loss": float(step)})
        assert log.mean_loss == sum(range(50, 150)) / 100


def replace_folder(out: Path, log: Log, folder: Path) -> None:
    """Do what a save does: a new folder with the log's files takes the place of OUT."""
    log.carry_over(folder)
    shutil.rmtree(out)
    shutil.move(folder, out)
    log.reopen(step=1)


@pytest.mark.parametrize("tensorboard", [False, True])
def test_it_goes_on_when_its_folder_is_replaced(tmp_path: Path, tensorboard: bool) -> None:
    out, folder = tmp_path / "out", tmp_path / "new"
    out.mkdir()
    folder.mkdir()
    with Log(out, step=0, tensorboard=tensorboard) as log:
        log.step({"step": 1, "loss": 1.0})
        replace_folder(out, log, folder)
        log.step({"step": 2, "loss": 2.0})
    assert [record["step"] for record in lines(out)] == [1, 2]
    assert (out / "tensorboard").exists() == tensorboard


def test_it_goes_on_where_files_cannot_be_linked(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    out = tmp_path / "out"
    out.mkdir()
    with (
        tempfile.TemporaryDirectory(dir=elsewhere) as other,
        Log(out, step=0, tensorboard=True) as log,
    ):
        folder = Path(other) / "new"
        folder.mkdir()
        log.step({"step": 1, "loss": 1.0})
        replace_folder(out, log, folder)
        log.step({"step": 2, "loss": 2.0})
    assert [record["step"] for record in lines(out)] == [1, 2]
    assert len(list((out / "tensorboard").iterdir())) == 2
