"""A group's shared head, tried: how far one layer's attention moves on a few windows.

Axes: B windows, T tokens, S heads of a group, R query heads of each, D hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from edgetiny.gqa.align import Shared, multiplied
from edgetiny.gqa.moments import check_finite
from edgetiny.model import Layer, Rotary
from edgetiny.model import Sequence as TokenSequence


class Trial:
    """Queries, keys, values and what the heads attended to, of one layer on some text."""

    def __init__(self, layer: Layer, x: Tensor, rotary: Rotary, sequence: TokenSequence) -> None:
        """x: (B, T, D), what enters the layer."""
        attention = layer.self_attn
        head_dim = attention.attend.head_dim
        normed = layer.input_layernorm(x)
        self._q, self._k, self._v = (
            project(normed).view(*x.shape[:2], -1, head_dim).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )  # (B, heads, T, head_dim)
        self._rotary, self._sequence, self._layer = rotary, sequence, attention.attend.layer
        self._n_queries = self._q.shape[1] // self._k.shape[1]
        columns = attention.o_proj.weight.view(x.shape[2], -1, head_dim)
        # For W = Q R, |W x| is |R x|: a root of the Gram matrix, so that no cost rounds below zero.
        self._roots = torch.linalg.qr(columns.transpose(0, 1), mode="r").R  # (H, hd, hd)
        self._attended = self._attend(self._q, self._k, self._v)  # (B, H, T, head_dim)

    def error(self, heads: Sequence[int], shared: Shared) -> float:
        """Return the squared change of the layer's output, were these heads one; sum over heads.

        Raises CheckpointError naming the layer if it is not finite.
        """
        own = torch.tensor(heads)
        queries = (own[:, None] * self._n_queries + torch.arange(self._n_queries)).flatten()
        turn = shared.query_turn.repeat_interleave(self._n_queries, dim=0)
        back = shared.value_back.float().repeat_interleave(self._n_queries, dim=0)
        q = _pairs_times(self._q[:, queries], turn)  # (B, S * R, T, head_dim)
        k = _pairs_times(self._k[:, own], shared.key_mix).sum(dim=1, keepdim=True)
        v = torch.einsum("sij,bstj->bti", shared.value_mix.float(), self._v[:, own])[:, None]
        read = self._attend(q, k, v) @ back.mT  # (B, S * R, T, head_dim)
        moved = (read - self._attended[:, queries]) @ self._roots[queries].mT  # of the same length
        cost = moved.square().sum(dtype=torch.float64)
        check_finite(self._layer, cost)
        return float(cost)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = self._rotary.apply(q), self._rotary.apply(k)
        return self._sequence.attend(self._layer, q, k, v)


def _pairs_times(heads: Tensor, factors: Tensor) -> Tensor:
    """Multiply heads (B, S, T, head_dim), pair by pair, by complex factors (S, P), in fp32."""
    by_head = heads.permute(1, 3, 0, 2)  # (S, head_dim, B, T)
    return multiplied(by_head, factors).permute(2, 0, 3, 1).float()
