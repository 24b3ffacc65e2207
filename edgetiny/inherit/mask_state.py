"""Where learning masks stands: `OUT.masks`, replaced whole at each save, and gone on from."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from edgetiny.config.model import InheritConfig
from edgetiny.console import Reporter
from edgetiny.errors import CheckpointError, ConfigError
from edgetiny.files import atomic_folder, read_json, refuse_existing, write_json
from edgetiny.inherit.learn import Learner
from edgetiny.train.interrupt import StopRequest
from edgetiny.train.log import Log

SCHEMA_VERSION = 1
_STATE, _TENSORS = "mask_state.json", "mask_state.safetensors"
_FREE = {"source", "data", "out", "mask_save_every", "resume", "overwrite"}


def folder_of(config: InheritConfig) -> Path:
    """Return where the masks of a student are kept."""
    return config.out.with_name(config.out.name + ".masks")


def learn(learner: Learner, config: InheritConfig, sources: str, reporter: Reporter) -> None:
    """Do all steps, saving as they come; with `config.resume` those that are left.

    sources: hashes of source and text, so that a run does not go on with others. What is learned
    stands in the log beside the state: losses, penalty, shares of open gates and multipliers.
    Raises ConfigError if what is saved is of other settings, KeyboardInterrupt after Ctrl-C.
    """
    folder, every = folder_of(config), int(config.mask("save_every"))
    settings = {key: value for key, value in config.as_json().items() if key not in _FREE}
    identity = {"settings": settings, "sources": sources}
    first = _restore(learner, folder, identity) if config.resume and folder.exists() else 0
    if first == 0:
        if not config.resume:
            refuse_existing(folder, overwrite=config.overwrite)
        _save(learner, folder, 0, identity, None)
    else:
        reporter.say(f"going on with the masks from step {first} of {learner.n_steps}")
    with (
        Log(folder, step=first, tensorboard=False) as log,
        StopRequest(reporter) as stop,
        reporter.task("learning masks", learner.n_steps) as task,
    ):
        task.advance(first)
        for step in range(first, learner.n_steps):
            report = learner.step(step)
            log.step(
                {"step": step + 1, "loss": report.loss, "penalty": report.penalty}
                | {"open": report.open_shares, "multipliers": learner.multipliers()}
            )
            task.advance(1, f"loss {report.loss:.3f}")
            if stop.is_set or (step + 1) % every == 0 or step + 1 == learner.n_steps:
                _save(learner, folder, step + 1, identity, log)
            if stop.is_set:
                reporter.say(f"saved step {step + 1} in {folder}; go on with --resume")
                raise KeyboardInterrupt


def _save(
    learner: Learner, folder: Path, step: int, identity: dict[str, Any], log: Log | None
) -> None:
    with atomic_folder(folder, overwrite=True) as temporary:
        save_file(_tensors(learner), temporary / _TENSORS)
        write_json(temporary / _STATE, {"schema_version": SCHEMA_VERSION, "step": step} | identity)
        if log is not None:
            log.carry_over(temporary)
    if log is not None:
        log.reopen(step)


def _restore(learner: Learner, folder: Path, identity: dict[str, Any]) -> int:
    """Put back what was saved and return how many steps are done."""
    saved = read_json(folder / _STATE, schema_version=SCHEMA_VERSION, error=CheckpointError)
    for name, now in identity.items():
        if saved.get(name) != now:
            what = "settings" if name == "settings" else "source or text"
            raise ConfigError(
                f"cannot resume: the masks in {folder} are of other {what};"
                " give the same, or start again with --overwrite"
            )
    try:
        tensors = load_file(folder / _TENSORS)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{folder / _TENSORS} is missing or damaged: {error}") from error
    with torch.no_grad():
        for name, parameter in learner.saved_parameters().items():
            parameter.copy_(tensors[name])
            moments = {
                key: tensors[f"{key}.{name}"].clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in tensors
            }
            if moments:
                learner.optimizer.state[parameter] = moments
    return int(saved["step"])


def _tensors(learner: Learner) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in learner.saved_parameters().items():
        tensors[name] = parameter.detach()
        for key, moment in learner.optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = moment
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
