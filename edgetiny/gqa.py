"""Multi-head to grouped-query attention: average the key/value heads that will be shared.

Neighbouring heads share, so query heads keep their order: each still reads the group that its
old key/value head went into.
Source: the paper's appendix A; Ainslie et al. 2023, "GQA", section 2.1.
"""

import functools
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from edgetiny.checkpoint import Checkpoint, LazyTensors, ModelConfig, write_checkpoint
from edgetiny.checkpoint.model_config import divisors
from edgetiny.config.model import GqaConfig
from edgetiny.console import QUIET, Reporter
from edgetiny.errors import ConfigError
from edgetiny.files import atomic_folder, refuse_existing

_POOLED = ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")


def run(config: GqaConfig, reporter: Reporter = QUIET) -> Checkpoint:
    """Write the checkpoint with `config.groups` key/value heads and return it, opened.

    Raises ConfigError if the groups do not divide the heads, or `config.out` exists.
    """
    refuse_existing(config.out, overwrite=config.overwrite)
    source = Checkpoint.open(config.source)
    shape, tensors = to_gqa(source, config.groups)
    n_before = source.config.num_key_value_heads
    reporter.say(f"averaging {n_before} key/value heads into {config.groups}")
    with atomic_folder(config.out, overwrite=config.overwrite) as folder:
        write_checkpoint(
            folder,
            shape,
            tensors,
            stage="gqa",
            settings=config.as_json(),
            parent=source,
            tokenizer=source.path,
            metrics={"kv_heads_before": n_before},
        )
    return Checkpoint.open(config.out)


def to_gqa(checkpoint: Checkpoint, groups: int) -> tuple[ModelConfig, Mapping[str, Tensor]]:
    """Return the configuration and tensors with `groups` key/value heads; tensors are made lazily.

    As many groups as the checkpoint has key/value heads gives the same weights, bit for bit.
    Raises ConfigError, listing the possible counts, if `groups` does not divide those heads.
    """
    config = checkpoint.config
    n_kv_heads = config.num_key_value_heads
    if groups < 1 or n_kv_heads % groups:
        choices = ", ".join(map(str, divisors(n_kv_heads)))
        raise ConfigError(
            f"{groups} groups do not divide the {n_kv_heads} key/value heads of"
            f" {checkpoint.path}; choose from {choices}"
        )

    def make(name: str) -> Tensor:
        tensor = checkpoint.tensor(name)
        if not name.endswith(_POOLED):
            return tensor
        return mean_pool_kv_heads(tensor, groups, config.head_dim)

    makers = {name: functools.partial(make, name) for name in checkpoint.names()}
    return replace(config, num_key_value_heads=groups), LazyTensors(makers)


def mean_pool_kv_heads(weight: Tensor, n_kv_heads: int, head_dim: int) -> Tensor:
    """Average each group of neighbouring key (or value) heads into one head.

    weight: (heads now * head_dim, hidden), or a bias (heads now * head_dim,).
    Returns (n_kv_heads * head_dim, ...) in the same dtype; the mean is taken in fp32.
    """
    if weight.shape[0] == n_kv_heads * head_dim:
        return weight
    # (n_kv_heads, heads now / n_kv_heads, head_dim, ...)
    heads = weight.float().reshape(n_kv_heads, -1, head_dim, *weight.shape[1:])
    return heads.mean(dim=1).flatten(0, 1).to(weight.dtype)  # (n_kv_heads * head_dim, ...)
