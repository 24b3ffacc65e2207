"""The two sides of a gate: copies of the package in temporary folders, and processes that run them.

Copies, so that an edit during the run changes nothing; folders with names of one length, so that
both sides have equal paths but for a word.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgetiny.errors import ConfigError, DeviceError

WORKER = Path(__file__).with_name("gate_worker.py")
_PACKAGE = "edgetiny"


@dataclass(frozen=True, slots=True)
class Side:
    """What is measured: a folder that holds the package, its name for people, its git commit.

    worker: the command line after python, another one only to test the gate itself.
    """

    name: str
    folder: Path
    commit: str
    worker: tuple[str, ...] = ("-P", str(WORKER))


@contextlib.contextmanager
def both_sides(base: str | None, head: Path) -> Iterator[tuple[Side | None, Side]]:
    """Yield base (None if not given) and head, and remove their copies afterwards.

    base: a folder, or a git revision of head's repository.
    Raises ConfigError for a folder without the package, or a revision that is not there.
    """
    with tempfile.TemporaryDirectory(prefix="edgetiny-gate-") as folder:
        head_side = _copy(head, Path(folder) / "head")
        if base is None:
            yield None, head_side
        elif Path(base).is_dir():
            yield _copy(Path(base), Path(folder) / "base"), head_side
        else:
            yield _extract(base, head, Path(folder) / "base"), head_side


def environment(side: Side) -> dict[str, str]:
    """Return an environment in which python imports the package of this side."""
    inherited = os.environ.get("PYTHONPATH")
    path = f"{side.folder}{os.pathsep}{inherited}" if inherited else str(side.folder)
    # Neither a thread pool nor the order of a set may differ between the sides.
    return dict(os.environ) | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"}


class Worker:
    """One process of a side. It starts at once; the first `ask` or `ready` waits for it."""

    def __init__(self, side: Side, opening: Mapping[str, Any], prefix: Sequence[str] = ()) -> None:
        self.side = side
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [*prefix, sys.executable, *side.worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            env=environment(side),
            text=True,
        )
        self._send(opening)
        self._about: dict[str, Any] | None = None

    def ready(self) -> dict[str, Any]:
        """Wait until the model is open; return what the process says of itself."""
        if self._about is None:
            self._about = self._receive()
            if self._about["package"] != str(self.side.folder):
                raise DeviceError(
                    f"{self.side.name} would be measured with the edgetiny of"
                    f" {self._about['package']}; something in this environment imports it first"
                )
        return self._about

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Have one thing done and return the answer."""
        self.ready()
        self._send({"do": do} | request)
        return self._receive()

    def finish(self) -> str:
        """Let the process end by itself; return what it printed beside its answers."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        return self._text()

    def kill(self) -> None:
        """End the process, also in the middle of something."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._printed):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; how shows in the next answer
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            lines = [each.strip() for each in self._text().splitlines() if each.strip()]
            last = lines[-1] if lines else "it printed nothing"
            raise DeviceError(
                f"{self.side.name} cannot be measured: its process ended with code"
                f" {self._process.returncode}: {last}"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise DeviceError(f"{self.side.name} cannot be measured: {answer['error']}")
        return answer

    def _text(self) -> str:
        self._printed.seek(0)
        return self._printed.read().decode("utf-8", errors="replace")


@contextlib.contextmanager
def workers(
    sides: Mapping[str, Side], opening: Mapping[str, Any]
) -> Iterator[Mapping[str, Worker]]:
    """Yield a ready process for each side; they start together and end with the block."""
    running: dict[str, Worker] = {}
    try:
        for name, side in sides.items():
            running[name] = Worker(side, opening)
        for worker in running.values():
            worker.ready()
        yield running
    finally:
        for worker in running.values():
            worker.kill()


def _copy(source: Path, target: Path) -> Side:
    package = source / _PACKAGE
    if not (package / "__init__.py").is_file():
        raise ConfigError(f"{source} holds no folder {_PACKAGE}; name a checkout of edgetiny")
    shutil.copytree(package, target / _PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    described = _git(source, "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12")
    commit = described.decode().strip() if described is not None else "no git"
    return Side(f"{target.name} {source} ({commit})", target, commit)


def _extract(revision: str, repository: Path, target: Path) -> Side:
    """Write a revision's package without touching the repository, its index or its worktrees."""
    found = _git(repository, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if found is None:
        raise ConfigError(
            f"--base {revision} is neither a folder, nor a .json file, nor a git revision of"
            f" {repository}; in a shallow clone fetch it first"
        )
    commit = found.decode().strip()
    archive = _git(repository, "archive", "--format=tar", commit, _PACKAGE)
    if archive is None:
        raise ConfigError(f"--base {revision}: that revision holds no folder {_PACKAGE}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(target, filter="data")
    return Side(f"{target.name} {revision} ({commit[:12]})", target, commit[:12])


def _git(folder: Path, *words: str) -> bytes | None:
    """Return what git prints, None if it refuses or is not there."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout
