"""The other end of a worker: start it, follow its events, and say in one line how it failed."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import edgetiny
from edgetiny import errors
from edgetiny.errors import DeviceError

OnEvent = Callable[[Mapping[str, Any]], None]


def run_worker(
    request: Mapping[str, Any], on_event: OnEvent, module: str = "edgetiny.bench.worker"
) -> dict[str, Any]:
    """Run one worker to its end and return its result; other events go to `on_event`.

    Raises the error that the worker reported, or DeviceError if it ended without a result.
    """
    with tempfile.TemporaryFile() as printed:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            env=_environment(),
            text=True,
        )
        try:
            result = _follow(worker, request, on_event)
        finally:
            # Also when the user interrupts: no worker goes on alone.
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()
        if result is None:
            raise DeviceError(_how_it_ended(worker.returncode, printed))
        return result


def _follow(
    worker: "subprocess.Popen[str]", request: Mapping[str, Any], on_event: OnEvent
) -> dict[str, Any] | None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        with worker.stdin as stream:
            json.dump(request, stream)
    except BrokenPipeError:
        pass  # it died before it read; its exit code says more
    for line in worker.stdout:
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "error":
            raise getattr(errors, event["kind"])(event["message"])
        if event["event"] == "result":
            return event
        on_event(event)
    worker.wait()
    return None


def _how_it_ended(code: int, printed: IO[bytes]) -> str:
    printed.seek(0)
    lines = printed.read().decode("utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
    if code == -signal.SIGKILL:
        return (
            "the measuring process was killed, as happens when memory runs out;"
            " give a smaller --batch"
        )
    ending = f"by signal {-code}" if code < 0 else f"with code {code}"
    return f"the measuring process ended {ending} and without a result: {last}"


def _environment() -> dict[str, str]:
    """Return an environment in which the worker (with -P) imports this very package."""
    here = str(Path(edgetiny.__file__).parents[1])
    path = os.environ.get("PYTHONPATH")
    return dict(os.environ) | {"PYTHONPATH": f"{here}{os.pathsep}{path}" if path else here}
