"""Mean cross-entropy of a linear head without ever holding the logits of a whole batch.

Axes: N tokens (a batch's rows, one after the other), D hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Logits of one chunk: small enough to stay in a last-level cache, large enough for a fast product.
_CHUNK_BYTES = 16 * 2**20


def head_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return the mean negative log-likelihood of `targets` under softmax(hidden weight^T).

    hidden: (N, D). weight: (V, D). targets: (N,) int64. Returns a scalar in fp32 nats.
    dtype: arithmetic of the matrix products; the softmax is fp32.
    The gradients of `hidden` and `weight` are computed in the forward pass, chunk by chunk, since
    there the probabilities are at hand: at most `_CHUNK_BYTES` of logits exist at a time.
    """
    loss: Tensor = _HeadCrossEntropy.apply(hidden, weight, targets, dtype)  # type: ignore[no-untyped-call]
    return loss


def chunk_rows(vocab_size: int) -> int:
    """Return how many tokens' logits are held at a time."""
    return max(1, _CHUNK_BYTES // (4 * vocab_size))


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype
    ) -> Tensor:
        device_type = hidden.device.type
        with torch.autocast(device_type, enabled=False):
            rows, head = hidden.to(dtype), weight.to(dtype)
            hidden_grad = torch.empty_like(hidden)  # (N, D)
            weight_grad = torch.zeros_like(weight)  # (V, D)
            total = hidden.new_zeros((), dtype=torch.float32)
            n_tokens, size = len(targets), chunk_rows(len(weight))
            for start in range(0, n_tokens, size):
                chunk = slice(start, start + size)
                logits = (rows[chunk] @ head.T).float()  # (size, V)
                total += _loss_into_gradient(logits, targets[chunk], 1 / n_tokens)
                gradient = logits.to(dtype)
                hidden_grad[chunk] = gradient @ head
                _add_product(weight_grad, gradient.T, rows[chunk])
        ctx.gradients = hidden_grad, weight_grad
        return total / n_tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        hidden_grad, weight_grad = ctx.gradients
        del ctx.gradients  # scaled in place, so a second backward pass must fail
        return hidden_grad.mul_(upstream), weight_grad.mul_(upstream), None, None


def _loss_into_gradient(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Return the summed loss of the rows, and turn `logits` into their gradient, times `scale`."""
    chosen = targets[:, None]  # (rows, 1)
    logits.sub_(logits.amax(dim=1, keepdim=True))
    of_targets = logits.gather(1, chosen)  # (rows, 1)
    # One exponential serves the sum and the probabilities: it is the costliest step on a CPU.
    sums = logits.exp_().sum(dim=1, keepdim=True)  # (rows, 1)
    logits.mul_(scale / sums)
    logits.scatter_add_(1, chosen, torch.full_like(of_targets, -scale))
    return (sums.log() - of_targets).sum()


def _add_product(into: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == into.dtype:
        into.addmm_(left, right)
    else:
        into += left @ right
