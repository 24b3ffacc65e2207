"""`edgetiny train`: from a checkpoint folder and token shards to a trained checkpoint folder."""

import dataclasses

import torch

from edgetiny.checkpoint import Checkpoint
from edgetiny.config.train import TrainConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.data import Shards
from edgetiny.errors import ConfigError
from edgetiny.evaluate.compatible import check_same_tokenizer
from edgetiny.files import TOKENIZER_FILES, refuse_existing, remove_leftovers
from edgetiny.measure import torch_threads
from edgetiny.model import load_model
from edgetiny.train.log import check_tensorboard
from edgetiny.train.loop import Loop, Sources
from edgetiny.train.optimizer import restore_moments
from edgetiny.train.state import STATE_FILE, TrainerState, read_moments, saved_settings
from edgetiny.train.step import Samples, Trainer, check_compiler, tokens_per_step
from edgetiny.train.throughput import Precision, check_device, choose_precision


def run(config: TrainConfig, reporter: Reporter = QUIET) -> Checkpoint:
    """Train and return the finished checkpoint.

    The state is saved before the first step, every `save_every` steps and at Ctrl-C, so that
    `resume` goes on from there to the same weights, bit for bit on the same machine.
    Raises ConfigError, DataError, CheckpointError or DeviceError for what the user can mend,
    CheckFailed if the loss stops being finite, KeyboardInterrupt after saving at Ctrl-C.
    """
    saved = _saved_state(config, reporter)
    _check_software(config)
    with torch_threads(config.threads):
        sources = _open_sources(config)
        config = _with_steps(config, sources.shards, reporter)
        samples = Samples(sources.shards.train, config)
        precision = _precision(config, saved)
        state = _first_state(config, sources, precision)
        if saved is not None:
            saved.check_resumable(state)
            if saved.is_finished:
                reporter.say(f"{config.out} is finished, after {saved.step} steps")
                return Checkpoint.open(config.out)
            state = dataclasses.replace(saved, settings=state.settings, threads=state.threads)
            _say_resumed(config, saved, state, reporter)
        elif config.precision == "auto":
            reporter.say(f"training in {precision}: it multiplies faster here, as measured now")
        trainer = _trainer(config, sources.checkpoint, samples, precision, saved)
        Loop(config, trainer, state, sources, reporter).run()
    return Checkpoint.open(config.out)


def _saved_state(config: TrainConfig, reporter: Reporter) -> TrainerState | None:
    """Return the state to go on from; None for a fresh start."""
    if not config.resume:
        refuse_existing(config.out, overwrite=config.overwrite)
        return None
    if config.out.parent.is_dir():
        remove_leftovers(config.out)
    if (config.out / STATE_FILE).is_file():
        return TrainerState.read(config.out)
    if config.out.exists() and not (config.out.is_dir() and not any(config.out.iterdir())):
        raise ConfigError(
            f"cannot resume: {config.out} holds no training state; choose another --out"
        )
    reporter.say(f"nothing was saved in {config.out} yet: starting afresh")
    return None


def _check_software(config: TrainConfig) -> None:
    check_device(config)
    if config.compile:
        check_compiler(config.device)
    if config.tensorboard:
        check_tensorboard()


def _open_sources(config: TrainConfig) -> Sources:
    """Open checkpoint and shards. Raises DataError or ConfigError if they do not go together."""
    checkpoint, shards = Checkpoint.open(config.checkpoint), Shards.open(config.data)
    check_same_tokenizer(checkpoint.path, checkpoint.config.vocab_size, shards)
    longest = checkpoint.config.max_position_embeddings
    if config.sequence_length > longest:
        raise ConfigError(
            f"--sequence-length {config.sequence_length} is beyond the model's longest context"
            f" of {longest}"
        )
    has_tokenizer = any((checkpoint.path / name).is_file() for name in TOKENIZER_FILES)
    tokenizer = checkpoint.path if has_tokenizer else shards.tokenizer_path
    return Sources(checkpoint=checkpoint, shards=shards, tokenizer=tokenizer)


def _with_steps(config: TrainConfig, shards: Shards, reporter: Reporter) -> TrainConfig:
    """Return settings that say how many steps there are, as they are saved and compared."""
    if not config.fraction:
        return dataclasses.replace(config, steps=config.n_steps)
    n_tokens, per_step = len(shards.train.tokens), tokens_per_step(config)
    steps = max(1, round(config.fraction * n_tokens / per_step))
    reporter.say(f"{config.fraction:.4g} of {n_tokens:,} tokens: {steps} steps of {per_step:,}")
    return dataclasses.replace(config, steps=steps, fraction=0.0)


def _precision(config: TrainConfig, saved: TrainerState | None) -> Precision:
    """Return the arithmetic to train with; what `auto` once chose stays chosen."""
    if saved is not None and config.precision == "auto":
        return "bf16" if saved.settings.get("precision") == "bf16" else "fp32"
    return choose_precision(config)


def _first_state(config: TrainConfig, sources: Sources, precision: Precision) -> TrainerState:
    return TrainerState(
        step=0,
        tokens=0,
        position=0,
        seconds=0.0,
        threads=torch.get_num_threads(),
        is_finished=False,
        checkpoint_sha256=sources.checkpoint.sha256,
        data_sha256=sources.shards.sha256,
        settings=saved_settings(config, precision),
    )


def _say_resumed(
    config: TrainConfig, saved: TrainerState, now: TrainerState, reporter: Reporter
) -> None:
    reporter.say(f"going on from step {saved.step} of {config.n_steps} in {config.out}")
    if saved.threads != now.threads:
        reporter.say(
            f"{now.threads} CPU threads now, {saved.threads} before:"
            " the weights will agree to rounding only"
        )


def _trainer(
    config: TrainConfig,
    checkpoint: Checkpoint,
    samples: Samples,
    precision: Precision,
    saved: TrainerState | None,
) -> Trainer:
    """Return the trainer with the saved weights and moments, or the weights to start from."""
    source = checkpoint if saved is None else Checkpoint.open(config.out)
    # Weights are kept in fp32 whatever the arithmetic: small updates would vanish in bf16.
    model = load_model(source, torch.float32, config.device)
    trainer = Trainer(model, samples, config, precision)
    if saved is not None:
        restore_moments(model, trainer.optimizer, read_moments(config.out), saved.step)
    return trainer
