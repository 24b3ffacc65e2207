"""From a folder to the engine that runs it."""

from pathlib import Path

import torch

from edgetiny.artefact import is_artefact
from edgetiny.checkpoint import Checkpoint
from edgetiny.errors import ConfigError
from edgetiny.runtimes.eager import EagerRuntime
from edgetiny.runtimes.protocol import Runtime


def open_runtime(
    path: Path | str,
    *,
    context: int | None = None,
    dtype: torch.dtype | None = None,
    threads: int = 0,
    device: str = "cpu",
) -> Runtime:
    """Load an artefact (it has a `manifest.json`) into its engine, a checkpoint into torch.

    context, dtype, device: of a checkpoint only: an artefact's were settled at its export.
    dtype: of weights, cache and arithmetic; fp32 if None.
    threads: CPU threads; 0 means one per core.
    """
    if not is_artefact(Path(path)):
        return EagerRuntime.load(
            Checkpoint.open(path),
            context=context,
            dtype=dtype or torch.float32,
            threads=threads,
            device=device,
        )
    if dtype is not None or device != "cpu":
        raise ConfigError(
            f"{path} is an artefact: its precision was settled at export, and it runs on the CPU"
        )
    from edgetiny.runtimes.ort import OrtRuntime

    return OrtRuntime.load(Path(path), context=context, threads=threads)
