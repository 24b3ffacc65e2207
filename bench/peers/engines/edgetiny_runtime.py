"""Ours: an artefact that `edgetiny export` made by a recipe, in its own runtime.

options: recipe (path); calibrated: whether it reads text. Greedy steps keep the logits where they
are computed.
"""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from peers.models import CALIBRATION_TEXT
from peers.work import Ids, Timed, Work, argmax_ids, greedy

ARTEFACT = "artefact"


def prepare(checkpoint: Path, folder: Path, options: Mapping[str, Any]) -> None:
    """Run `edgetiny export`."""
    command = [sys.executable, "-m", "edgetiny", "export", str(checkpoint)]
    command += ["--recipe", options["recipe"], "--out", str(folder / ARTEFACT), "--overwrite"]
    if options["calibrated"]:
        command += ["--calibration-text", str(checkpoint.parent / CALIBRATION_TEXT)]
    subprocess.run(command, check=True)


def run(folder: Path, options: Mapping[str, Any], work: Work) -> Timed:
    """Decode through the runtime that the artefact's manifest names."""
    from edgetiny.runtimes import open_runtime

    runtime = open_runtime(
        folder / ARTEFACT, context=work.context, threads=work.threads, max_batch=work.batch
    )
    runtime.prepare(work.batch)
    lengths = np.full(work.batch, work.prompt.shape[1])

    def start(prompt: Ids) -> Ids:
        return argmax_ids(runtime.prefill(prompt, lengths))

    return greedy(start, lambda ids, position: runtime.greedy_step(ids), work)
