"""What the phases of a child process take: seconds, and anonymous memory of all that it starts.

The child says on standard output which phase begins (`say_phase`, or phase_reporter.py for each
task of a stage); the parent (`watch`) reads RssAnon, what no file backs, every 50 ms. The standard
library alone: a child may live in an environment without edgetiny.
"""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SECONDS_BETWEEN = 0.05
_MARK = "phase: "


def say_phase(name: str) -> None:
    """Say, as a child, that a phase begins."""
    print(f"{_MARK}{name}", flush=True)


@dataclass(frozen=True)
class Watched:
    """A child that has ended: its phases in seconds and bytes, and CPU time of all it started."""

    phases: dict[str, dict[str, float]]
    cpu_seconds: float
    failed: str | None

    @property
    def seconds(self) -> float:
        """From start to end."""
        return sum(row["seconds"] for row in self.phases.values())

    @property
    def anonymous_bytes(self) -> float:
        """The most that was read in any phase."""
        return max(row["anonymous_bytes"] for row in self.phases.values())


def watch(command: Sequence[str], environment: Mapping[str, str], notes: Path) -> Watched:
    """Run a child to its end. notes: where its output goes, without suffix."""
    said, log = notes.with_suffix(".phases"), notes.with_suffix(".log")
    cpu_before = _children_seconds()
    phases: dict[str, dict[str, float]] = {}
    with said.open("w") as output, log.open("w") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
    before = time.perf_counter()
    while process.poll() is None:
        time.sleep(_SECONDS_BETWEEN)
        now = time.perf_counter()
        row = phases.setdefault(_phase_of(said), {"seconds": 0.0, "anonymous_bytes": 0})
        row["seconds"] += now - before
        row["anonymous_bytes"] = max(row["anonymous_bytes"], _anonymous_bytes(process.pid))
        before = now
    failed = log.read_text()[-300:] or f"exit {process.returncode}" if process.returncode else None
    return Watched(phases, _children_seconds() - cpu_before, failed)


def _children_seconds() -> float:
    """Return the CPU time of all children that have ended."""
    usage = os.times()
    return usage.children_user + usage.children_system


def _phase_of(said: Path) -> str:
    """Return the phase that a child named last; others may print there too."""
    lines = [line for line in said.read_text().splitlines() if line.startswith(_MARK)]
    return lines[-1].removeprefix(_MARK) if lines else "start"


def _anonymous_bytes(pid: int) -> int:
    """Return the anonymous memory of a process and all that descends from it."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                total = int(line.split()[1]) * 1024
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return total
    return total + sum(_anonymous_bytes(int(child)) for child in children)
