"""`edgetiny init`: a checkpoint with random weights, drawn by seed and tensor name.

All matrices share one standard deviation: the paper compared schemes and recommends the constant
(section 3.1, Table 4).
"""

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, ModelConfig, parameter_shapes, write_checkpoint
from edgetiny.checkpoint.model_config import divisors
from edgetiny.config.model import InitConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import ConfigError
from edgetiny.files import atomic_folder, refuse_existing
from edgetiny.tokenizer import Tokenizer

_FFN_MULTIPLE = 32


class RandomTensors(Mapping[str, Tensor]):
    """Every tensor of a model, drawn when it is asked for: one of them in memory at a time.

    Matrices are N(0, std^2), norms one, biases zero. A tensor depends on seed, name and shape
    alone, so that two models of other depth share the layers they have in common.
    """

    def __init__(self, config: ModelConfig, *, std: float, seed: int) -> None:
        self._shapes = parameter_shapes(config)
        self._std = std
        self._seed = seed

    def __getitem__(self, name: str) -> Tensor:
        shape = self._shapes[name]
        if name.endswith(".bias"):
            return torch.zeros(shape)
        if len(shape) == 1:
            return torch.ones(shape)
        digest = hashlib.sha256(f"{self._seed}:{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.empty(shape).normal_(0.0, self._std, generator=generator)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def run(config: InitConfig, reporter: Reporter = QUIET) -> Checkpoint:
    """Write a random checkpoint for a tokenizer.

    Raises DataError if the tokenizer cannot be read, ConfigError for sizes that do not go together
    or an --out that stands.
    """
    refuse_existing(config.out, overwrite=config.overwrite)
    if config.tokenizer.is_file():
        raise ConfigError(
            f"--tokenizer {config.tokenizer} is a file; name its folder, whose files are copied"
        )
    model_config = model_config_for(config, Tokenizer.open(config.tokenizer))
    reporter.say(f"drawing random weights into {config.out}")
    tensors = RandomTensors(model_config, std=config.initializer_range, seed=config.seed)
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


def model_config_for(config: InitConfig, tokenizer: Tokenizer) -> ModelConfig:
    """Return the whole shape; what is not given follows from the width, ids from the tokenizer.

    Raises ConfigError for heads that do not divide.
    """
    width, n_heads = config.hidden_size, config.num_attention_heads
    if config.head_dim is None and width % n_heads:
        raise ConfigError(
            f"--num-attention-heads {n_heads} does not divide --hidden-size {width};"
            f" choose from {', '.join(map(str, divisors(width)))}, or give --head-dim"
        )
    eos = tokenizer.eos_id
    return ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=width,
        intermediate_size=config.intermediate_size or default_ffn_width(width),
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=config.num_key_value_heads or n_heads,
        head_dim=config.head_dim or width // n_heads,
        rope_theta=config.rope_theta,
        max_position_embeddings=config.max_position_embeddings,
        tie_word_embeddings=config.tie_word_embeddings,
        bos_token_id=tokenizer.bos_id,
        eos_token_ids=() if eos is None else (eos,),
        pad_token_id=tokenizer.pad_id,
    )


def default_ffn_width(hidden_size: int) -> int:
    """Return 8/3 of the width, rounded up to a multiple of 32 (a block of grouped weights)."""
    return -(-8 * hidden_size // (3 * _FFN_MULTIPLE)) * _FFN_MULTIPLE
