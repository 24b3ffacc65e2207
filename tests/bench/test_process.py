from dataclasses import asdict

import pytest

from edgetiny.bench.process import run_worker
from edgetiny.bench.protocol import Protocol
from edgetiny.errors import CheckpointError, DeviceError


def ignore(event):
    pass


def test_a_worker_that_cannot_start_is_one_clear_line():
    with pytest.raises(DeviceError, match=r"ended with code 1.*No module named"):
        run_worker({}, ignore, module="edgetiny.bench.nothing")


def test_a_worker_runs_this_package_wherever_it_is_started(tmp_path, monkeypatch):
    (tmp_path / "edgetiny").mkdir()
    (tmp_path / "edgetiny/__init__.py").write_text("raise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeviceError, match=r"No module named '?edgetiny.bench.nothing"):
        run_worker({}, ignore, module="edgetiny.bench.nothing")


@pytest.mark.slow
def test_a_bug_in_the_worker_shows_its_last_line():
    with pytest.raises(DeviceError, match=r"without a result: KeyError: 'protocol'"):
        run_worker({}, ignore)


@pytest.mark.slow
def test_an_error_of_the_user_keeps_its_kind(tmp_path, make_checkpoint):
    request = {
        "subject": {
            "kind": "checkpoint",
            "name": "gone",
            "path": str(tmp_path),
            "config": make_checkpoint().config.to_hf(),
            "precision": "fp32",
            "runtime": "eager",
            "device": "cpu",
        },
        "protocol": asdict(Protocol(batch=1, prompt_tokens=1, new_tokens=2, repeats=1)),
        "threads": 1,
    }
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        run_worker(request, ignore)
