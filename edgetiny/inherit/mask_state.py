"""Where learning masks stands: `OUT.masks`, replaced whole at each save, and gone on from."""

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.checkpoint.write import write_tensors
from edgetiny.config.model import STUDENT_AXES, InheritConfig
from edgetiny.console import Reporter
from edgetiny.errors import CheckpointError, ConfigError
from edgetiny.files import atomic_folder, read_json, refuse_existing, write_json
from edgetiny.inherit.layers import Dropped
from edgetiny.inherit.learn import Learner
from edgetiny.train.interrupt import StopRequest
from edgetiny.train.log import Log

SCHEMA_VERSION = 1
_STATE, _TENSORS = "mask_state.json", "mask_state.safetensors"
# The design's path too: what counts is the shape that it holds.
_FREE = {"source", "data", "out", "to", "mask_save_every", "threads", "resume", "overwrite"}


class MaskState:
    """What is saved of one run. dropped: the layers that go, None as long as none were chosen."""

    def __init__(self, config: InheritConfig, shape: ModelConfig, sources: str) -> None:
        """Look at what an earlier run left, before anything is computed.

        shape: of the student, however it was asked for. sources: hashes of source and text, so that
        a run does not go on with others.
        Raises ConfigError if something is there and not to be gone on from, or of other settings.
        """
        self.folder = config.out.with_name(config.out.name + ".masks")
        self.dropped: list[Dropped] | None = None
        self._step = 0
        settings = {key: value for key, value in config.as_json().items() if key not in _FREE}
        settings |= {name: getattr(shape, name) for name in STUDENT_AXES}
        self._settings, self._sources = settings, sources
        if not config.resume:
            refuse_existing(self.folder, overwrite=config.overwrite)
        elif self.folder.exists():
            self._read()

    def restore(self, learner: Learner) -> int:
        """Put back what was saved, if anything was, and return how many steps are done."""
        if self._step == 0:
            return 0
        path = self.folder / _TENSORS
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is missing or damaged: {error}") from error
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
        return self._step

    def save(self, learner: Learner, step: int, log: Log | None) -> None:
        """Replace what is saved, the log included."""
        dropped = [each.as_json() for each in self.dropped or []]
        document = {
            "schema_version": SCHEMA_VERSION,
            "step": step,
            "dropped_layers": dropped,
            "settings": self._settings,
            "sources": self._sources,
        }
        with atomic_folder(self.folder, overwrite=True) as temporary:
            write_tensors(temporary / _TENSORS, _tensors(learner))
            write_json(temporary / _STATE, document)
            if log is not None:
                log.carry_over(temporary)
        if log is not None:
            log.reopen(step)

    def _read(self) -> None:
        saved = read_json(
            self.folder / _STATE, schema_version=SCHEMA_VERSION, error=CheckpointError
        )
        of_saved = saved.get("settings", {})
        other = [
            f"{name} = {of_saved.get(name)}, not {now}"
            for name, now in self._settings.items()
            if of_saved.get(name) != now
        ]
        if saved.get("sources") != self._sources:
            other = ["another source or text"]
        if other:
            raise ConfigError(
                f"cannot resume: the masks in {self.folder} had {'; '.join(other)}:"
                " give the same, or start again with --overwrite"
            )
        self._step = int(saved["step"])
        self.dropped = [Dropped(**row) for row in saved["dropped_layers"]]


def learn(learner: Learner, config: InheritConfig, state: MaskState, reporter: Reporter) -> None:
    """Do all steps, saving as they come; those that are left, if `state` was gone on from.

    What is learned stands in the log beside the state: losses, penalty, shares of open gates and
    multipliers. Raises KeyboardInterrupt after Ctrl-C.
    """
    every = int(config.mask("save_every"))
    first = state.restore(learner)
    if first == 0:
        state.save(learner, 0, None)
    else:
        reporter.say(f"going on with the masks from step {first} of {learner.n_steps}")
    with (
        Log(state.folder, step=first, tensorboard=False) as log,
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
                state.save(learner, step + 1, log)
            if stop.is_set:
                reporter.say(f"saved step {step + 1} in {state.folder}; go on with --resume")
                raise KeyboardInterrupt


def _tensors(learner: Learner) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in learner.saved_parameters().items():
        tensors[name] = parameter.detach()
        for key, moment in learner.optimizer.state.get(parameter, {}).items():
            tensors[f"{key}.{name}"] = moment
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
