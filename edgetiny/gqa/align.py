"""The head that stands best for a group of heads, up to what leaves attention as it is.

A key may be turned and scaled, each pair of channels by a complex number of its own, if its
queries are turned back: that commutes with the rotary embedding. Values may be multiplied by any
invertible matrix if the output projection undoes it. Averaging heads as they stand ignores both.
Here the shared key is, pair by pair, the first principal component of the group's keys, and the
shared value the first head_dim principal components of the group's values, both weighted by
what an error costs at the layer's output.
Axes: S heads of a group, R query heads of each, P = head_dim / 2 pairs, D hidden size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgetiny.checkpoint import ModelConfig
from edgetiny.gqa.grouping import Grouping
from edgetiny.gqa.moments import Moments, as_pairs
from edgetiny.gqa.pool import follow

# Of a group's largest: a direction that matters less is as good as unused, and must not be divided
# by. In a head that the output projection does not read, that is every direction.
_NEGLIGIBLE = 1e-10


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """One head for a group: how it is mixed from the old heads, and read as each of them.

    key_mix, query_turn: (S, P) complex; shared key = sum of key_mix * key, query *= query_turn.
    value_mix: (S, head_dim, head_dim), shared value = sum of value_mix @ value.
    value_back: (S, head_dim, head_dim), value = value_back @ shared value, nearly.
    """

    key_mix: Tensor
    query_turn: Tensor
    value_mix: Tensor
    value_back: Tensor


def share(moments: Moments, heads: Sequence[int]) -> Shared:
    """Return the best shared head of a group."""
    chosen = torch.tensor(heads)
    key_mix, query_turn = _shared_key(moments, chosen)
    value_mix, value_back = _shared_value(moments, chosen)
    return Shared(
        key_mix=key_mix, query_turn=query_turn, value_mix=value_mix, value_back=value_back
    )


def _shared_key(moments: Moments, heads: Tensor) -> tuple[Tensor, Tensor]:
    """Minimise the sum of weight * |key - gain * shared|^2, pair by pair."""
    weights = moments.key_weights[heads].T  # (P, S)
    roots = _floored(weights).sqrt()
    covariance = moments.keys[:, heads][:, :, heads]  # (P, S, S)
    _, vectors = torch.linalg.eigh(covariance * roots[:, :, None] * roots[:, None, :])
    first = vectors[:, :, -1]  # (P, S)
    gain = first / roots  # key = gain * shared
    # Of one shared key, any multiple is one too: make the gains one in the mean square, and
    # their sum positive, so that equal heads share just that head.
    total = gain.sum(dim=1)
    phase = torch.where(total.abs() > 1e-12, total / total.abs().clamp(min=1e-300), 1)
    size = gain.abs().square().mean(dim=1).sqrt() * phase  # (P,)
    mix = first.conj() * roots * size[:, None]
    gain = gain / size[:, None]
    # score = Re(conj(query) * gain * shared) = Re(conj(query * conj(gain)) * shared)
    return mix.T, gain.conj().T


def _shared_value(moments: Moments, heads: Tensor) -> tuple[Tensor, Tensor]:
    """Minimise the sum of |W (value - back @ shared)|^2 over the query heads' output columns W."""
    n_heads, head_dim = len(heads), moments.values.shape[1]
    covariance = moments.values[heads][:, :, heads].flatten(2).flatten(0, 1)  # (S * hd, S * hd)
    roots, inverses = _roots(moments.outputs[heads].sum(dim=1))  # (S, hd, hd)
    root = torch.block_diag(*roots)  # type: ignore[no-untyped-call]
    _, vectors = torch.linalg.eigh(root @ covariance @ root)
    first = vectors[:, -head_dim:].reshape(n_heads, head_dim, head_dim)  # (S, hd, hd)
    mix = (roots @ first).mT  # shared = sum of first^T root value
    back = inverses @ first
    # Any invertible change of the shared value is free: give it the old values' scale, and turn
    # it towards their mean, so that weights of one layer keep one size.
    size = (back.square().sum() / (n_heads * head_dim)).sqrt()
    left, _, right = torch.linalg.svd(back.mean(dim=0))
    turn = left @ right
    return turn @ mix * size, back @ turn.T / size


def _roots(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric square roots of positive matrices (S, n, n), and their inverses."""
    energies, vectors = torch.linalg.eigh(matrices)
    roots = _floored(energies).sqrt()  # (S, n)
    return (vectors * roots[:, None]) @ vectors.mT, (vectors / roots[:, None]) @ vectors.mT


def _floored(energies: Tensor) -> Tensor:
    """Return energies, none below a negligible share of the largest; of one, if all are zero."""
    largest = float(energies.max())
    return energies.clamp(min=_NEGLIGIBLE * (largest if largest > 0 else 1.0))


def plain_mean(n_heads: int, head_dim: int) -> Shared:
    """Return the mean of a group's heads in the form of a shared head; its costs are unknown."""
    one = torch.eye(head_dim, dtype=torch.float64).expand(n_heads, -1, -1)
    turn = torch.ones(n_heads, head_dim // 2, dtype=torch.complex128)
    return Shared(key_mix=turn / n_heads, query_turn=turn, value_mix=one / n_heads, value_back=one)


def aligned_tensors(
    tensors: Mapping[str, Tensor], grouping: Grouping, shared: Sequence[Shared], config: ModelConfig
) -> dict[str, Tensor]:
    """Return one layer's attention with a head of each group, in fp32.

    tensors: of the old attention, by the part of the name after `self_attn.`; config: the old one.
    """
    kv_order = torch.tensor([head for group in grouping for head in group])
    n_groups = len(grouping)
    changed: dict[str, Tensor] = {}
    turns = torch.cat([each.query_turn for each in shared])  # (G, P), in the new order
    n_queries = config.num_attention_heads // config.num_key_value_heads
    backs = torch.cat([each.value_back for each in shared]).repeat_interleave(n_queries, dim=0)
    key_mix = torch.cat([each.key_mix for each in shared])
    value_mix = torch.cat([each.value_mix for each in shared])
    for name, tensor in tensors.items():
        tensor = follow(name, tensor, grouping, config).double()
        if name == "o_proj.weight":
            columns = tensor.view(len(tensor), -1, config.head_dim).transpose(0, 1)  # (H, D, hd)
            tensor = (columns @ backs).transpose(0, 1).flatten(1)  # (D, H * hd)
        elif name.startswith("q_proj"):
            heads = tensor.view(-1, config.head_dim, *tensor.shape[1:])  # (H, hd, ...)
            tensor = multiplied(heads, turns.repeat_interleave(n_queries, dim=0)).flatten(0, 1)
        elif name.startswith(("k_proj", "v_proj")):
            heads = tensor.view(-1, config.head_dim, *tensor.shape[1:])[kv_order]
            if name.startswith("k_proj"):
                mixed = multiplied(heads, key_mix)
            else:
                mixed = torch.einsum("gij,gj...->gi...", value_mix, heads)
            of_groups = mixed.view(n_groups, -1, *mixed.shape[1:]).sum(dim=1)  # (groups, hd, ...)
            tensor = of_groups.flatten(0, 1)
        changed[name] = tensor.float()
    return changed


def multiplied(heads: Tensor, factors: Tensor) -> Tensor:
    """Multiply each pair of channels of heads (S, head_dim, ...) by complex factors (S, P)."""
    pairs = as_pairs(heads.transpose(1, -1)).transpose(1, -1)  # (S, P, ...)
    product = pairs * factors.view(*factors.shape, *[1] * (heads.ndim - 2))
    return torch.cat((product.real, product.imag), dim=1)  # (S, head_dim, ...)
