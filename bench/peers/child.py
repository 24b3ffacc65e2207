"""One engine in one process: `PYTHON bench/peers/child.py` in that engine's virtual environment.

Standard input is one request; standard output is one line of JSON: seconds, tokens, first ids, peak
memory and versions. An engine that fails ends the process with its traceback. One engine per
process, always: the threads of an idle engine spin and slow the next one several times.
"""

import importlib
import json
import os
import resource
import sys
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

# This folder's files are a package; as loose modules they would hide others of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])


def main() -> int:
    """Answer the request on standard input; whatever libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answer = answer_request(json.load(sys.stdin))
    answers.write(json.dumps(answer) + "\n")
    answers.flush()
    # Some engines' threads hang at exit; what they had to say is said.
    os._exit(0)


def answer_request(request: dict[str, Any]) -> dict[str, Any]:
    """Prepare an engine's files, or run them."""
    engine = importlib.import_module(f"peers.engines.{request['engine']}")
    folder = Path(request["folder"])
    if request["action"] == "prepare":
        engine.prepare(Path(request["checkpoint"]), folder, request["options"])
        return {"versions": _versions(request["packages"])}
    import numpy as np

    from peers.work import Work

    work = Work(
        prompt=np.array(request["prompt"], np.int64),
        new_tokens=request["new_tokens"],
        warm_up_tokens=request["warm_up_tokens"],
        threads=request["threads"],
    )
    timed = engine.run(folder, request["options"], work)
    return asdict(timed) | {
        "tokens": work.batch * work.new_tokens,
        "peak_rss_bytes": peak_rss_bytes(),
        "versions": _versions(request["packages"]),
    }


def peak_rss_bytes() -> int:
    """Return the most memory that this process, or a program it started, had resident."""
    own = 0
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            own = int(line.split()[1]) * 1024
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)


def _versions(packages: list[str]) -> dict[str, str]:
    wanted = {name.lower() for name in packages}
    found = {each.metadata["Name"].lower(): each.version for each in distributions()}
    return {name: found[name] for name in sorted(wanted & found.keys())}


if __name__ == "__main__":
    sys.exit(main())
