"""Fewer key/value heads by plain pooling: a group's mean, its first head, or one drawn at random.

Query heads and the columns of the output projection follow their key/value head into its group,
so that each query head reads what its old key/value head went into.
Axes: H query heads, G key/value heads.
Source: the paper's appendix A; Ainslie et al. 2023, "GQA", section 2.1.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgetiny.checkpoint import Checkpoint, LazyTensors, ModelConfig
from edgetiny.checkpoint.model_config import divisors
from edgetiny.errors import ConfigError
from edgetiny.gqa.grouping import Grouping, adjacent

PlainPool = Literal["mean", "first", "random"]

_POOLED = ("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")
_QUERY_ROWS = ("q_proj.weight", "q_proj.bias")
_QUERY_COLUMNS = ("o_proj.weight",)


def to_gqa(
    checkpoint: Checkpoint,
    groups: int,
    *,
    pool: PlainPool = "mean",
    groupings: Sequence[Grouping] | None = None,
    seed: int = 0,
) -> tuple[ModelConfig, Mapping[str, Tensor]]:
    """Return the configuration and tensors with `groups` key/value heads; tensors are made lazily.

    groupings: which heads share, a layer each; neighbours if not given. seed: of pool "random".
    As many groups as the checkpoint has key/value heads gives the same weights, bit for bit.
    Raises ConfigError, listing the possible counts, if `groups` does not divide those heads.
    """
    config = checkpoint.config
    check_groups(checkpoint, groups)
    if groups == config.num_key_value_heads:
        return config, checkpoint.state_dict()
    if groupings is None:
        groupings = [adjacent(config.num_key_value_heads, groups)] * config.num_hidden_layers

    def make(name: str) -> Tensor:
        tensor = checkpoint.tensor(name)
        if ".self_attn." not in name:
            return tensor
        layer = int(name.split(".")[2])
        if name.endswith(_POOLED):
            return pool_kv_heads(tensor, groupings[layer], config.head_dim, pool, (seed, layer))
        return follow(name, tensor, groupings[layer], config)

    makers = {name: functools.partial(make, name) for name in checkpoint.names()}
    return replace(config, num_key_value_heads=groups), LazyTensors(makers)


def check_groups(checkpoint: Checkpoint, groups: int) -> None:
    """Raise ConfigError if `groups` does not divide the checkpoint's key/value heads."""
    n_kv_heads = checkpoint.config.num_key_value_heads
    if groups < 1 or n_kv_heads % groups:
        choices = ", ".join(map(str, divisors(n_kv_heads)))
        raise ConfigError(
            f"{groups} groups do not divide the {n_kv_heads} key/value heads of"
            f" {checkpoint.path}; choose from {choices}"
        )


def pool_kv_heads(
    weight: Tensor,
    grouping: Grouping,
    head_dim: int,
    pool: PlainPool,
    seed: tuple[int, int] = (0, 0),
) -> Tensor:
    """Make one key (or value) head of each group.

    weight: (G * head_dim, hidden), or a bias (G * head_dim,). Returns (groups * head_dim, ...) in
    the same dtype; the mean is taken in fp32. With one seed, keys and values draw the same heads.
    """
    heads = weight.reshape(-1, head_dim, *weight.shape[1:])[torch.tensor(grouping)]
    # (groups, group size, head_dim, ...)
    if pool == "mean":
        return heads.float().mean(dim=1).flatten(0, 1).to(weight.dtype)  # (groups * head_dim, ...)
    n_groups, size = heads.shape[:2]
    chosen = np.zeros(n_groups, np.int64)
    if pool == "random":
        chosen = np.random.default_rng(seed).integers(size, size=n_groups)
    picked = heads[torch.arange(n_groups), torch.from_numpy(chosen)]  # (groups, head_dim, ...)
    return picked.flatten(0, 1)  # (groups * head_dim, ...)


def follow(name: str, tensor: Tensor, grouping: Grouping, config: ModelConfig) -> Tensor:
    """Return a tensor of the attention with its query heads in the order of their groups."""
    order = query_order(grouping, config)
    if name.endswith(_QUERY_ROWS):
        return reorder(tensor, order, config.head_dim, 0)
    if name.endswith(_QUERY_COLUMNS):
        return reorder(tensor, order, config.head_dim, 1)
    return tensor


def query_order(grouping: Grouping, config: ModelConfig) -> list[int]:
    """Return the query heads in the order of their key/value heads' groups."""
    n_queries = config.num_attention_heads // config.num_key_value_heads
    kv_order = [head for group in grouping for head in group]
    return [head * n_queries + query for head in kv_order for query in range(n_queries)]


def reorder(tensor: Tensor, order: Sequence[int], head_dim: int, dim: int) -> Tensor:
    """Return a tensor with its heads along `dim`, of `head_dim` each, in another order."""
    if list(order) == list(range(len(order))):
        return tensor
    channels = torch.tensor(order)[:, None] * head_dim + torch.arange(head_dim)  # (heads, head_dim)
    return tensor.index_select(dim, channels.flatten())
