"""One engine's process from the outside: its answer, or one line that says how it failed."""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_CHILD = Path(__file__).parent / "child.py"
_REPOSITORY = Path(__file__).parents[2]
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")


def call(
    python: Path, request: Mapping[str, Any], *, limit_s: float, log: Path | None = None
) -> dict[str, Any]:
    """Run a request in a process of its own; return the answer, or {"error": reason}."""
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [str(python), str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment(request),
            start_new_session=True,  # its own children end with it
        )
        try:
            printed, _ = child.communicate(json.dumps(request).encode(), timeout=limit_s)
            reason = None
        except subprocess.TimeoutExpired:
            printed, reason = b"", f"did not end within {limit_s:.0f} s"
        finally:
            _end_group(child)
        errors.seek(0)
        noise = errors.read().decode("utf-8", errors="replace")
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(noise, encoding="utf-8")
    return {"error": reason} if reason else answer_of(printed, child.returncode, noise)


def answer_of(printed: bytes, code: int, noise: str) -> dict[str, Any]:
    """Return the JSON object on the last line, or the last thing that was said before the end."""
    lines = printed.decode("utf-8", errors="replace").strip().splitlines()
    if code == 0 and lines:
        answer: dict[str, Any] = json.loads(lines[-1])
        return answer
    ending = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
    return {"error": f"ended with {ending}: {_last_words(noise)}"[:400]}


def _last_words(noise: str) -> str:
    """Return the last error that was printed; a program's own says more than that it failed."""
    said = [line.strip() for line in noise.splitlines() if line.strip()]
    named = [line for line in said if _ERROR.match(line) and "CalledProcessError" not in line]
    return [*said, *named][-1] if said else "nothing was printed"


def environment(request: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of an engine's process: offline, its threads settled.

    Only ours sees this checkout: the others live on what their own environment holds.
    """
    variables = dict(os.environ) | {
        "OMP_NUM_THREADS": str(request["threads"]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    variables.pop("PYTHONPATH", None)
    if request["engine"] == "edgetiny_runtime":
        variables["PYTHONPATH"] = str(_REPOSITORY)
    return variables


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):  # all of it has ended
        os.killpg(child.pid, signal.SIGKILL)
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
    child.wait()
