"""What calibration text says of one layer's heads: second moments of queries, keys and values.

A head's channels i and i + head_dim / 2 turn together under the rotary embedding, by an angle of
their own: each such pair is one complex number here.
Axes: B windows, T tokens, G key/value heads, R query heads of each, P = head_dim / 2 pairs,
D hidden size, N = B * T tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from edgetiny.errors import CheckpointError
from edgetiny.model import Layer


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Means over tokens, in double precision.

    keys: (P, G, G), of key_g * conj(key_h), pair by pair.
    queries: (G, R, P), of |query|^2.
    values: (G, head_dim, G, head_dim), of value_g value_h^T; mean_value: (G, head_dim).
    outputs: (G, R, head_dim, head_dim), W^T W of each query head's columns W of o_proj.
    """

    keys: Tensor
    queries: Tensor
    values: Tensor
    mean_value: Tensor
    outputs: Tensor

    @property
    def key_weights(self) -> Tensor:
        """(G, P): what an error of one squared unit in a key costs at the layer's output.

        It changes scores in proportion to the queries; a changed score moves the output in
        proportion to how far the head's values, seen through o_proj, differ among tokens.
        """
        head_dim = self.values.shape[1]
        own = torch.stack([self.values[g, :, g] for g in range(len(self.values))])
        spread = own - self.mean_value[:, :, None] * self.mean_value[:, None, :]  # (G, hd, hd)
        moved = (self.outputs * spread[:, None]).sum(dim=(2, 3)).clamp(min=0)  # (G, R)
        # Real part of conj(query) * error, phases independent: half; scores are over sqrt(hd).
        return (self.queries * moved[:, :, None]).sum(dim=1) / (2 * head_dim)


@torch.inference_mode()
def gather(layer: Layer, inputs: Iterable[Tensor]) -> Moments:
    """Return the moments of a layer whose input is `inputs`, each (B, T, D).

    Raises CheckpointError naming the layer if they are not finite.
    """
    attention = layer.self_attn
    head_dim = attention.attend.head_dim
    n_kv_heads = attention.k_proj.out_features // head_dim
    n_tokens = 0
    sums: list[Tensor] = []
    for x in inputs:
        normed = layer.input_layernorm(x).flatten(0, 1)  # (N, D)
        k = as_pairs(attention.k_proj(normed).view(-1, n_kv_heads, head_dim))  # (N, G, P)
        q = attention.q_proj(normed).view(len(normed), n_kv_heads, -1, head_dim)  # (N, G, R, hd)
        v = attention.v_proj(normed).double()  # (N, G * head_dim)
        pairs = k.permute(2, 1, 0)  # (P, G, N)
        parts = [
            pairs @ pairs.mH,
            as_pairs(q).abs().square().sum(dim=0),
            v.T @ v,
            v.sum(dim=0),
        ]
        sums = [a + b for a, b in zip(sums, parts, strict=True)] if sums else parts
        n_tokens += len(normed)
    keys, queries, values, mean_value = (each / n_tokens for each in sums)
    columns = attention.o_proj.weight.detach().double()
    columns = columns.view(len(columns), n_kv_heads, -1, head_dim).permute(1, 2, 0, 3)
    # (G, R, D, head_dim)
    outputs = columns.mT @ columns
    check_finite(attention.attend.layer, keys, queries, values, mean_value, outputs)
    return Moments(
        keys=keys,
        queries=queries,
        values=values.view(n_kv_heads, head_dim, n_kv_heads, head_dim),
        mean_value=mean_value.view(n_kv_heads, head_dim),
        outputs=outputs,
    )


def check_finite(layer: int, *found: Tensor) -> None:
    """Raise CheckpointError if what was found of a layer's attention is not finite."""
    if not all(each.isfinite().all() for each in found):
        raise CheckpointError(
            f"the attention of layer {layer} is not finite on the calibration text; edgetiny"
            " inspect says which weights are not"
        )


def as_pairs(heads: Tensor) -> Tensor:
    """Return (..., head_dim) channels as (..., P) complex numbers, in double precision."""
    first, second = heads.double().chunk(2, dim=-1)
    return torch.complex(first, second)
