"""`edgetiny inherit`: a smaller checkpoint cut out of a larger one."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from edgetiny.checkpoint import Checkpoint, ModelConfig, write_checkpoint
from edgetiny.config.model import InheritConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.data import Shards
from edgetiny.evaluate.compatible import check_same_tokenizer
from edgetiny.evaluate.window import trained_length
from edgetiny.files import atomic_folder, refuse_existing
from edgetiny.importance.axes import take_layers
from edgetiny.importance.neurons import score
from edgetiny.importance.text import mean_loss, text_windows
from edgetiny.inherit.energy import kept_energy
from edgetiny.inherit.layers import Dropped, choose_layers, kept_layers
from edgetiny.inherit.learn import Learner
from edgetiny.inherit.mask_state import MaskState, learn
from edgetiny.inherit.masks import kept_of
from edgetiny.inherit.neurons import choose
from edgetiny.inherit.shape import student_shape
from edgetiny.inherit.surgery import cut, cut_shape
from edgetiny.inherit.teacher import open_teacher
from edgetiny.measure import torch_threads
from edgetiny.model import Transformer, build_model

_MASK_WINDOW = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Student:
    """A model that was cut out of another. metrics: what is to be told of how it came to be."""

    shape: ModelConfig
    tensors: Mapping[str, Tensor]
    metrics: dict[str, Any] = field(default_factory=dict)

    def model(self) -> Transformer:
        """Return it as a module in its own dtype."""
        return build_model(self.shape, self.tensors)


def run(config: InheritConfig, reporter: Reporter = QUIET) -> Checkpoint:
    """Write the student cut out of `config.source` and return it, opened.

    Raises ConfigError for a shape that the source cannot give and for masks of an earlier run that
    are in the way, DataError for shards of another
    tokenizer or shorter than a window of text, CheckpointError for weights that are not finite.
    """
    refuse_existing(config.out, overwrite=config.overwrite)
    teacher = open_teacher(config)
    source = teacher.checkpoint
    shape = student_shape(source.config, config)
    shards = Shards.open(config.data)
    check_same_tokenizer(teacher.tokenizer, source.config.vocab_size, shards)
    masks = None
    if config.method == "learned":
        masks = MaskState(config, shape, f"{source.sha256} {shards.sha256}")
    held_out = text_windows(shards.valid, config.calibration_tokens, trained_length(source))
    with torch_threads(config.threads):
        before = mean_loss(source.config, source.state_dict(), held_out)
        student = inherit(source, shape, config, shards, masks, reporter)
        after = mean_loss(student.shape, student.tensors, held_out)
    reporter.say(f"held-out loss {before:.3f} nats per token before, {after:.3f} after the cut")
    metrics = {"loss_source": before, "loss_student": after} | student.metrics
    with atomic_folder(config.out, overwrite=config.overwrite) as folder:
        write_checkpoint(
            folder,
            student.shape,
            student.tensors,
            stage="inherit",
            settings=config.as_json(),
            parent=source,
            tokenizer=teacher.tokenizer,
            metrics=metrics,
        )
        teacher.adopt(folder)
    return Checkpoint.open(config.out)


def inherit(
    source: Checkpoint,
    shape: ModelConfig,
    config: InheritConfig,
    shards: Shards,
    masks: MaskState | None = None,
    reporter: Reporter = QUIET,
) -> Student:
    """Return the student of a shape: layers are chosen first, then neurons in those that stay.

    masks: where learned masks are kept, and the layers that they were begun with; of
    `--method learned` alone.
    """
    windows = text_windows(shards.train, config.calibration_tokens, trained_length(source))
    dropped = _dropped(source, shape, config, windows, masks, reporter)
    layers = kept_layers(source.config.num_hidden_layers, dropped)
    big, tensors = take_layers(source.config, source.state_dict(), layers)
    of_layers: dict[str, Any] = {}
    if config.layers_method != "learned":
        of_layers["dropped_layers"] = [each.as_json() for each in dropped]
    if big == shape:
        what = "layers are" if dropped else "the student is"
        reporter.say(f"no neuron is to go: {what} taken as they stand")
        read = windows[:, 1:].numel() if dropped else 0
        of_layers |= {"calibration_tokens": read, "kept_layers": layers, "mask_tokens": 0}
        return Student(shape=big, tensors=tensors, metrics=of_layers)
    if masks is not None:
        masks.dropped = dropped
        student = _learned(source, layers, shape, config, shards, masks, reporter)
        return replace(student, metrics=of_layers | student.metrics)
    assert config.method != "learned"
    scores = score(config.method, big, tensors, windows, seed=config.seed, reporter=reporter)
    kept = choose(scores, shape)
    energy = {}
    if shape.hidden_size < big.hidden_size:
        energy = kept_energy(big, tensors, windows, kept.hidden)
    return Student(
        shape=cut_shape(big, shape),
        tensors=cut(big, tensors, shape, kept, energy),
        metrics=of_layers
        | {"calibration_tokens": windows[:, 1:].numel(), "kept_layers": layers, "mask_tokens": 0},
    )


def _dropped(
    source: Checkpoint,
    shape: ModelConfig,
    config: InheritConfig,
    windows: Tensor,
    masks: MaskState | None,
    reporter: Reporter,
) -> list[Dropped]:
    """Return the layers that go before neurons are chosen."""
    if config.layers_method == "learned":
        return []
    if masks is not None and masks.dropped is not None:
        return masks.dropped
    return choose_layers(
        config.layers_method,
        source.config,
        source.state_dict(),
        windows,
        shape.num_hidden_layers,
        seed=config.seed,
        reporter=reporter,
    )


def _learned(
    source: Checkpoint,
    layers: list[int],
    shape: ModelConfig,
    config: InheritConfig,
    shards: Shards,
    masks: MaskState,
    reporter: Reporter,
) -> Student:
    """Return the student that masks over `layers` of the source come to."""
    big, tensors = take_layers(source.config, source.state_dict(), layers)
    length = min(_MASK_WINDOW, trained_length(source))
    learner = Learner(big, tensors, shape, shards.train, config, length)
    learn(learner, config, masks, reporter)
    gates, undecided = learner.masks.n_gates, learner.masks.undecided()
    if undecided:
        reporter.say(
            f"{undecided:,} of {gates:,} gates were undecided: those likeliest to be open stay;"
            " more --mask-steps decide more"
        )
    places, kept = kept_of(learner.settled(), big)
    thin, trained = take_layers(big, learner.tensors(), places)
    return Student(
        shape=cut_shape(thin, shape),
        tensors=cut(thin, trained, shape, kept, {}),
        metrics={
            "kept_layers": [layers[place] for place in places],
            "mask_tokens": learner.tokens,
            "gates": gates,
            "undecided": undecided,
        },
    )
