"""A run that is stopped, at whatever moment, ends as if it had never been."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.train import TrainConfig
from edgetiny.console import Reporter, Task
from edgetiny.errors import ConfigError
from edgetiny.train.stage import run
from edgetiny.train.state import OPTIMIZER_FILE, STATE_FILE

Settings = Callable[..., TrainConfig]


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Executioner(Reporter):
    """Does something when a number of steps is done: raises, or sends a signal."""

    def __init__(self, after: int, act: Callable[[], None]) -> None:
        super().__init__(quiet=True)
        self.after = after
        self.act = act
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    @contextmanager
    def task(self, name: str, total: int | None = None) -> Iterator[Task]:
        executioner = self

        class Watched(Task):
            def advance(self, count: int = 1, note: str = "") -> None:
                super().advance(count, note)
                if self._done == executioner.after and count == 1:
                    executioner.act()

        yield Watched(self.console, name, total, None)


def kill() -> None:
    raise Killed


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in Checkpoint.open(folder).state_dict().items()}


def assert_equal(left: Path, right: Path) -> None:
    ours, theirs = weights(left), weights(right)
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert different == []


def losses(out: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records if "loss" in record]


def validations(out: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [record for record in records if "bits_per_byte" in record]


@pytest.mark.parametrize("killed_at", [1, 3, 4, 6, 8])
def test_a_killed_run_ends_as_the_uninterrupted_one(
    settings: Settings, tmp_path: Path, killed_at: int
) -> None:
    config = settings(eval_every=2, gradient_accumulation=2)
    whole = run(replace(config, out=tmp_path / "whole"))
    with pytest.raises(Killed):
        run(config, Executioner(killed_at, kill))
    assert (config.out / OPTIMIZER_FILE).is_file()
    saved = json.loads((config.out / STATE_FILE).read_text())
    assert saved["step"] == (killed_at - 1) // 3 * 3
    resumed = run(replace(config, resume=True))
    assert_equal(whole.path, resumed.path)
    assert losses(whole.path) == losses(resumed.path)
    assert validations(whole.path) == validations(resumed.path)
    kept = ("train_loss", "valid_loss", "bits_per_byte", "tokens", "text_bytes")
    for name in kept:
        assert whole.lineage["metrics"][name] == resumed.lineage["metrics"][name]


def test_it_can_be_killed_again_and_again(settings: Settings, tmp_path: Path) -> None:
    config = settings(save_every=2)
    whole = run(replace(config, out=tmp_path / "whole"))
    for number, killed_at in enumerate((1, 3, 4, 6, 7, 8)):
        with pytest.raises(Killed):
            run(replace(config, resume=number > 0), Executioner(killed_at, kill))
    assert_equal(whole.path, run(replace(config, resume=True)).path)


def test_bf16_is_taken_up_as_exactly(settings: Settings, tmp_path: Path) -> None:
    config = settings(precision="bf16")
    whole = run(replace(config, out=tmp_path / "whole"))
    with pytest.raises(Killed):
        run(config, Executioner(5, kill))
    # What `auto` would choose now does not matter: the saved state says bf16.
    assert_equal(whole.path, run(replace(config, resume=True, precision="auto")).path)


def test_ctrl_c_saves_where_it_stands(settings: Settings, tmp_path: Path) -> None:
    config = settings(save_every=100)
    whole = run(replace(config, out=tmp_path / "whole"))
    before = signal.getsignal(signal.SIGINT)
    listener = Executioner(5, press_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        run(config, listener)
    assert signal.getsignal(signal.SIGINT) is before
    assert any("--resume" in message for message in listener.said)
    assert json.loads((config.out / STATE_FILE).read_text())["step"] == 5
    assert_equal(whole.path, run(replace(config, resume=True)).path)


def test_a_second_ctrl_c_stops_at_once(settings: Settings) -> None:
    def press_twice() -> None:
        press_ctrl_c()
        press_ctrl_c()

    config = settings(save_every=100)
    with pytest.raises(KeyboardInterrupt):
        run(config, Executioner(5, press_twice))
    assert json.loads((config.out / STATE_FILE).read_text())["step"] == 0


def test_ctrl_c_in_the_last_step_finishes(settings: Settings) -> None:
    config = settings()
    run(config, Executioner(config.n_steps, press_ctrl_c))
    assert json.loads((config.out / STATE_FILE).read_text())["is_finished"]


def test_nothing_saved_yet_is_a_fresh_start_and_said(settings: Settings) -> None:
    listener = Executioner(-1, kill)
    config = settings(resume=True, steps=2)
    run(config, listener)
    assert any("afresh" in message for message in listener.said)
    assert [step for step, _ in losses(config.out)] == [1, 2]


def test_a_finished_run_is_left_alone(settings: Settings) -> None:
    config = settings(steps=2)
    run(config)
    before = {path: path.read_bytes() for path in config.out.iterdir()}
    listener = Executioner(-1, kill)
    again = run(replace(config, resume=True), listener)
    assert again.path == config.out
    assert any("finished" in message for message in listener.said)
    assert {path: path.read_bytes() for path in config.out.iterdir()} == before


def test_other_settings_are_refused_and_nothing_is_lost(settings: Settings) -> None:
    config = settings()
    with pytest.raises(Killed):
        run(config, Executioner(5, kill))
    before = {path: path.read_bytes() for path in config.out.iterdir()}
    with pytest.raises(ConfigError, match=r"--steps was 8, now it is 9"):
        run(replace(config, resume=True, steps=9))
    assert {path: path.read_bytes() for path in config.out.iterdir()} == before


def test_another_start_is_refused(
    settings: Settings, make_checkpoint: Callable[..., Checkpoint]
) -> None:
    config = settings()
    with pytest.raises(Killed):
        run(config, Executioner(5, kill))
    other = make_checkpoint(vocab_size=512)
    with pytest.raises(ConfigError, match="checkpoint to start from"):
        run(replace(config, resume=True, checkpoint=other.path))


def test_sources_may_move(settings: Settings, tmp_path: Path) -> None:
    config = settings()
    whole = run(replace(config, out=tmp_path / "whole"))
    with pytest.raises(Killed):
        run(config, Executioner(5, kill))
    shutil.copytree(config.data, tmp_path / "moved")
    shutil.copytree(config.checkpoint, tmp_path / "start")
    moved = replace(config, resume=True, data=tmp_path / "moved", checkpoint=tmp_path / "start")
    assert_equal(whole.path, run(moved).path)


def test_a_folder_without_a_state_is_no_run(
    settings: Settings, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    shutil.copytree(tiny_checkpoint.path, tmp_path / "copy")
    with pytest.raises(ConfigError, match="no training state"):
        run(settings(out=tmp_path / "copy", resume=True))


def test_another_number_of_threads_is_said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(threads=0)
    before = torch.get_num_threads()
    with pytest.raises(Killed):
        run(config, Executioner(5, kill))
    listener = Executioner(-1, kill)
    torch.set_num_threads(before + 1)
    try:
        run(replace(config, resume=True), listener)
    finally:
        torch.set_num_threads(before)
    assert any("rounding" in message for message in listener.said)


@pytest.mark.slow
def test_sigkill_at_random_moments_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    config = settings(steps=60, save_every=5, eval_every=20, threads=2)
    whole = run(replace(config, out=tmp_path / "whole"))
    command = [
        *(sys.executable, "-m", "edgetiny", "train", str(config.checkpoint)),
        *("--data", str(config.data), "--out", str(config.out), "--steps", "60"),
        *("--batch-size", "2", "--sequence-length", "32", "--threads", "2"),
        *("--precision", "fp32", "--eval-every", "20", "--eval-tokens", "256"),
        *("--save-every", "5", "--resume", "--quiet"),
    ]
    rng = random.Random(0)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    kills = 0
    while kills < 3:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        wait_for_folder(process, config.out)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        if json.loads((config.out / STATE_FILE).read_text())["is_finished"]:
            break
    assert kills > 0
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert_equal(whole.path, config.out)
    assert losses(whole.path) == losses(config.out)
    assert [path.name for path in config.out.parent.iterdir() if path.name.startswith(".")] == []


def wait_for_folder(process: subprocess.Popen, out: Path) -> None:
    """Wait until the process writes beside OUT or in it: from then on a kill is interesting."""
    stamp = out.stat().st_ino if out.exists() else None
    while process.poll() is None:
        if out.exists() and out.stat().st_ino != stamp:
            return
        time.sleep(0.01)
