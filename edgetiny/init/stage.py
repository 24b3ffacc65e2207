"""`edgetiny init`: a checkpoint with random weights, for a tokenizer."""

import functools
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, LazyTensors, ModelConfig, write_checkpoint
from edgetiny.checkpoint.model_config import divisors
from edgetiny.config.model import InitConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.design import open_design
from edgetiny.errors import ConfigError
from edgetiny.files import atomic_folder, refuse_existing
from edgetiny.init.tensors import RandomTensors
from edgetiny.tokenizer import Tokenizer

_SIGMA = 0.02
_WIDTH, _DEPTH, _HEADS = 256, 8, 8
_FFN_MULTIPLE = 32
# Of a bottleneck around attention: PanGu-pi's, arXiv 2312.17276.
_REDUCTION = 32


def run(config: InitConfig, reporter: Reporter = QUIET) -> Checkpoint:
    """Write a random checkpoint for a tokenizer, or the source with options of PanGu-pi.

    Raises DataError if the tokenizer cannot be read, ConfigError for sizes that do not go together
    or an --out that stands.
    """
    refuse_existing(config.out, overwrite=config.overwrite)
    if config.source is not None:
        return _add_options(config, Checkpoint.open(config.source), reporter)
    assert config.tokenizer is not None, "the settings ask for one"
    if config.tokenizer.is_file():
        raise ConfigError(
            f"--tokenizer {config.tokenizer} is a file; name its folder, whose files are copied"
        )
    model_config = model_config_for(config, Tokenizer.open(config.tokenizer))
    reporter.say(f"drawing random weights into {config.out}")
    tensors = _drawn(config, model_config)
    with atomic_folder(config.out, overwrite=config.overwrite) as folder:
        write_checkpoint(
            folder,
            model_config,
            tensors,
            stage=config.stage,
            settings=config.as_json(),
            parent=None,
            tokenizer=config.tokenizer,
        )
    return Checkpoint.open(config.out)


def _add_options(config: InitConfig, source: Checkpoint, reporter: Reporter) -> Checkpoint:
    """Write the source with its options switched on: the same sums until it is trained."""
    if not source.config.is_plain:
        raise ConfigError(f"--source {source.path} has options of PanGu-pi already")
    model_config = with_options(source.config, config)
    drawn = _drawn(config, model_config)
    dtype = source.tensor("model.embed_tokens.weight").dtype
    readers = {
        name: functools.partial(source.tensor, name)
        if name in source.names()
        else functools.partial(_as_type, drawn, name, dtype)
        for name in drawn
    }
    reporter.say(f"copying {source.path} with options into {config.out}")
    with atomic_folder(config.out, overwrite=config.overwrite) as folder:
        write_checkpoint(
            folder,
            model_config,
            LazyTensors(readers),
            stage=config.stage,
            settings=config.as_json(),
            parent=source,
            tokenizer=source.path,
        )
    return Checkpoint.open(config.out)


def _as_type(tensors: RandomTensors, name: str, dtype: torch.dtype) -> Tensor:
    return tensors[name].to(dtype)


def _drawn(config: InitConfig, model_config: ModelConfig) -> RandomTensors:
    sigma = _SIGMA if config.initializer_range is None else config.initializer_range
    return RandomTensors(model_config, std=sigma, seed=config.seed, method=config.init)


def with_options(shape: ModelConfig, config: InitConfig) -> ModelConfig:
    """Return the shape with the options of PanGu-pi that the settings ask for."""
    width = max(1, shape.hidden_size // _REDUCTION) if config.augmented_shortcut else 0
    return replace(shape, series_activation=config.series_activation, augmented_shortcut=width)


def model_config_for(config: InitConfig, tokenizer: Tokenizer) -> ModelConfig:
    """Return the whole shape; what is not given follows from the width, ids from the tokenizer.

    Raises ConfigError for heads that do not divide, or a design of another vocabulary.
    """
    eos = tokenizer.eos_id
    shape = replace(
        _of_settings(config, tokenizer.vocab_size)
        if config.design is None
        else _of_design(config.design, tokenizer.vocab_size),
        bos_token_id=tokenizer.bos_id,
        eos_token_ids=() if eos is None else (eos,),
        pad_token_id=tokenizer.pad_id,
    )
    return with_options(shape, config)


def _of_design(path: Path, vocab_size: int) -> ModelConfig:
    shape = open_design(path).config
    if shape.vocab_size != vocab_size:
        raise ConfigError(
            f"design {path} has {shape.vocab_size} rows and the tokenizer {vocab_size} tokens;"
            f" train a tokenizer with --vocab-size {shape.vocab_size}, or make the design with"
            f" --vocab {vocab_size}"
        )
    return shape


def _of_settings(config: InitConfig, vocab_size: int) -> ModelConfig:
    width = config.hidden_size or _WIDTH
    n_heads = config.num_attention_heads or _HEADS
    if config.head_dim is None and width % n_heads:
        raise ConfigError(
            f"--num-attention-heads {n_heads} does not divide --hidden-size {width};"
            f" choose from {', '.join(map(str, divisors(width)))}, or give --head-dim"
        )
    tied = config.tie_word_embeddings
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=config.intermediate_size or default_ffn_width(width),
        num_hidden_layers=config.num_hidden_layers or _DEPTH,
        num_attention_heads=n_heads,
        num_key_value_heads=config.num_key_value_heads or n_heads,
        head_dim=config.head_dim or width // n_heads,
        rope_theta=config.rope_theta or 10_000.0,
        max_position_embeddings=config.max_position_embeddings or 2048,
        tie_word_embeddings=True if tied is None else tied,
    )


def default_ffn_width(hidden_size: int) -> int:
    """Return 8/3 of the width, rounded up to a multiple of 32 (a block of grouped weights)."""
    return -(-8 * hidden_size // (3 * _FFN_MULTIPLE)) * _FFN_MULTIPLE
