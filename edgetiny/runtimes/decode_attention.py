"""Rotate, append to the cache and attend, for one new token a sequence, in one Triton kernel.

Why not leave it to torch: it would be two rotations, two scatters, a mask and an attention (of
which none on CUDA takes a mask and grouped heads without falling back to plain products), and it
would read a whole bucket of the cache. This reads what the sequence holds, whose length the kernel
finds on the device, so one captured graph serves every context.
Online softmax as in Milakov and Gimelshein 2018 (arXiv 1805.02867). Axes: B sequences, H query
heads, G key/value heads, C cache capacity.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_TOKENS_AT_A_TIME = 64


@triton.jit  # type: ignore[untyped-decorator]
def _attend_one(  # type: ignore[no-untyped-def]
    qkv_ptr,  # (B, H + 2G, head_dim), contiguous
    keys_ptr,  # (B, G, C, head_dim), contiguous
    values_ptr,
    cos_ptr,  # (C, head_dim)
    sin_ptr,  # (C, head_dim), the first half negated
    positions_ptr,  # (B,) int64
    out_ptr,  # (B, H, head_dim)
    scale,
    capacity,
    N_HEADS: tl.constexpr,
    N_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Do one query head of one sequence; the first head of a group also appends to the cache."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    group = N_HEADS // N_KV_HEADS
    kv_head = head // group
    position = tl.load(positions_ptr + row).to(tl.int32)

    dims = tl.arange(0, PADDED_DIM)
    is_dim = dims < HEAD_DIM
    other_half = tl.where(dims < HEAD_DIM // 2, dims + HEAD_DIM // 2, dims - HEAD_DIM // 2)
    cos = tl.load(cos_ptr + position * HEAD_DIM + dims, mask=is_dim, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + position * HEAD_DIM + dims, mask=is_dim, other=0.0).to(tl.float32)

    token_ptr = qkv_ptr + row * (N_HEADS + 2 * N_KV_HEADS) * HEAD_DIM
    q_ptr = token_ptr + head * HEAD_DIM
    k_ptr = token_ptr + (N_HEADS + kv_head) * HEAD_DIM
    v_ptr = token_ptr + (N_HEADS + N_KV_HEADS + kv_head) * HEAD_DIM
    q = tl.load(q_ptr + dims, mask=is_dim, other=0.0).to(tl.float32)
    q_turned = tl.load(q_ptr + other_half, mask=is_dim, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + dims, mask=is_dim, other=0.0).to(tl.float32)
    k_turned = tl.load(k_ptr + other_half, mask=is_dim, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + dims, mask=is_dim, other=0.0)
    q = (q * cos + q_turned * sin) * scale
    # Rounded to the cache's type, so that the new token counts as it will when it is read again.
    k = (k * cos + k_turned * sin).to(v.dtype)

    cache_row = (row * N_KV_HEADS + kv_head).to(tl.int64) * capacity
    new = (cache_row + position) * HEAD_DIM + dims
    if head % group == 0:
        tl.store(keys_ptr + new, k, mask=is_dim)
        tl.store(values_ptr + new, v, mask=is_dim)

    # The new token comes out of registers: what this very launch stores is never loaded.
    highest = tl.sum(q * k.to(tl.float32), axis=0)
    total = 1.0
    mean = v.to(tl.float32)
    for start in range(0, position, BLOCK):
        tokens = start + tl.arange(0, BLOCK)
        is_held = tokens < position
        at = (cache_row + tokens)[:, None] * HEAD_DIM + dims[None, :]
        mask = is_held[:, None] & is_dim[None, :]
        held_k = tl.load(keys_ptr + at, mask=mask, other=0.0).to(tl.float32)
        held_v = tl.load(values_ptr + at, mask=mask, other=0.0).to(tl.float32)
        scores = tl.where(is_held, tl.sum(q[None, :] * held_k, axis=1), float("-inf"))
        now_highest = tl.maximum(highest, tl.max(scores, axis=0))
        shrink = tl.exp(highest - now_highest)
        weights = tl.exp(scores - now_highest)
        total = total * shrink + tl.sum(weights, axis=0)
        mean = mean * shrink + tl.sum(weights[:, None] * held_v, axis=0)
        highest = now_highest
    out = (row * N_HEADS + head) * HEAD_DIM + dims
    tl.store(out_ptr + out, (mean / total).to(v.dtype), mask=is_dim)


# An operator of its own, so that torch.compile passes it through as it is; its result is given to
# it, so that the compiler has allocated that itself and knows how it is aligned.
@torch.library.custom_op("edgetiny::attend_one", mutates_args=("keys", "values", "out"))
def attend_one(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    out: Tensor,
) -> None:
    """Append one token to each sequence, attend with it and write `out`.

    qkv: (B, H + 2G, 1, head_dim), not rotated. keys, values: (B, G, C, head_dim), contiguous.
    cos, sin: the rotation table (C, head_dim). positions: (B, 1), int64. out: (B, H, 1, head_dim).
    """
    B, n_all, _, head_dim = qkv.shape
    n_heads = out.shape[1]
    _attend_one[(B, n_heads)](
        # With T = 1 the projection's own memory is in this order already: no copy.
        qkv.contiguous(),
        keys,
        values,
        cos,
        sin,
        positions,
        out,
        head_dim**-0.5,
        keys.shape[2],
        N_HEADS=n_heads,
        N_KV_HEADS=(n_all - n_heads) // 2,
        HEAD_DIM=head_dim,
        PADDED_DIM=triton.next_power_of_2(head_dim),
        BLOCK=_TOKENS_AT_A_TIME,
    )


class SingleToken:
    """One token after what the cache holds, for `FusedDecoder`: every shape is fixed."""

    def __init__(self, positions: Tensor, cos: Tensor, sin: Tensor) -> None:
        """positions: (B, 1). cos, sin: the whole rotation table (C, head_dim)."""
        self.positions, self.cos, self.sin = positions, cos, sin

    def attend(self, qkv: Tensor, n_heads: int, keys: Tensor, values: Tensor) -> Tensor:
        B, _, _, head_dim = qkv.shape
        out = torch.empty(B, n_heads, 1, head_dim, dtype=qkv.dtype, device=qkv.device)
        attend_one(qkv, keys, values, self.cos, self.sin, self.positions, out)
        return out
