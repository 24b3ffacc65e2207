"""Where a run stands: a checkpoint folder, the optimizer's moments, and `trainer_state.json`.

The order of samples is a function of seed and position, and training draws no other random
numbers, so that seed and position are the whole state of chance.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, write_checkpoint
from edgetiny.checkpoint.write import write_tensors
from edgetiny.config.train import FREE_SETTINGS, TrainConfig
from edgetiny.errors import CheckpointError, ConfigError
from edgetiny.files import atomic_folder, read_json, write_json
from edgetiny.model import Transformer
from edgetiny.train.log import Log
from edgetiny.train.optimizer import moments

SCHEMA_VERSION = 1
STATE_FILE = "trainer_state.json"
OPTIMIZER_FILE = "optimizer.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainerState:
    """What `trainer_state.json` holds.

    step, tokens, position: optimizer steps done, tokens seen, samples drawn.
    settings: of the command line, `precision` as it was chosen.
    checkpoint_sha256, data_sha256: of the checkpoint it started from and of the training tokens.
    threads: CPU threads; with another number the sums are rounded differently.
    """

    step: int
    tokens: int
    position: int
    seconds: float
    threads: int
    is_finished: bool
    checkpoint_sha256: str
    data_sha256: str
    settings: Mapping[str, Any]

    @classmethod
    def read(cls, out: Path) -> "TrainerState":
        """Read the state of a run. Raises CheckpointError if it is damaged or newer."""
        path = out / STATE_FILE
        payload = read_json(path, schema_version=SCHEMA_VERSION, error=CheckpointError)
        del payload["schema_version"]
        try:
            return cls(**payload)
        except TypeError as error:
            raise CheckpointError(f"{path} is not a training state: {error}") from error

    def write(self, folder: Path) -> None:
        """Write the state into a checkpoint folder."""
        write_json(folder / STATE_FILE, {"schema_version": SCHEMA_VERSION} | asdict(self))

    def check_resumable(self, now: "TrainerState") -> None:
        """Raise ConfigError naming what differs from `now` and would change the result."""
        for name in sorted(self.settings.keys() | now.settings.keys()):
            before, after = self.settings.get(name), now.settings.get(name)
            if name not in FREE_SETTINGS and before != after:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(
                    f"cannot resume: {flag} was {before}, now it is {after};"
                    " give the same, or start again with --overwrite"
                )
        for what, before, after in (
            ("the checkpoint to start from", self.checkpoint_sha256, now.checkpoint_sha256),
            ("the training data", self.data_sha256, now.data_sha256),
        ):
            if before != after:
                raise ConfigError(
                    f"cannot resume: {what} is not the one that this run began with;"
                    " give the same, or start again with --overwrite"
                )


def saved_settings(config: TrainConfig, precision: str) -> dict[str, Any]:
    """Return the settings as the state keeps them."""
    return config.as_json() | {"precision": precision}


def save(
    out: Path,
    state: TrainerState,
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    *,
    parent: Checkpoint,
    tokenizer: Path | None,
    metrics: Mapping[str, Any],
    log: Log | None,
) -> None:
    """Replace `out` by the run as it stands, at once or not at all.

    A finished run keeps no moments: they are twice the size of the weights.
    """
    with atomic_folder(out, overwrite=True) as folder:
        write_checkpoint(
            folder,
            model.config,
            model.tensors(),
            stage=TrainConfig.stage,
            settings=state.settings,
            parent=parent,
            tokenizer=tokenizer,
            metrics=metrics,
        )
        if not state.is_finished:
            write_tensors(folder / OPTIMIZER_FILE, moments(model, optimizer))
        state.write(folder)
        if log is not None:
            log.carry_over(folder)
    if log is not None:
        log.reopen(state.step)


def read_moments(out: Path) -> dict[str, Tensor]:
    """Read the optimizer's moments. Raises CheckpointError if they are missing or damaged."""
    path = out / OPTIMIZER_FILE
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is missing or damaged: {error}") from error
