"""Eight-bit weights for a design in torch on a CPU, so that 1B shapes fit a small machine.

An artefact is what a product would run at int8; it needs an export, which for a shape alone costs
more than the measurement. This is the same kind of arithmetic in torch: weights rounded once, a
scale per row; activations rounded at each call, a scale per token; integer products between them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgetiny.checkpoint import ModelConfig
from edgetiny.model import Transformer, empty_model

_LARGEST = 127
_LEAST = 1e-30  # a row of zeros has no scale; its bytes are zero with any


class DynamicInt8(nn.Module):
    """x W^T + bias; W (N, K) as bytes with a scale per row, x and the result fp32."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        data, scales = _rounded(weight)
        self.register_buffer("weight", data, persistent=False)  # (N, K)
        self.register_buffer("scales", scales[:, 0], persistent=False)  # (N,)
        self.register_buffer("bias", bias, persistent=False)

    weight: Tensor
    scales: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        data, scales = _rounded(x.flatten(0, -2))  # (M, K), (M, 1)
        # No public int8 product exists in torch 2.13.
        sums = torch._int_mm(data, self.weight.t())  # (M, N), int32
        out = (sums * scales * self.scales).view(*x.shape[:-1], -1)  # (..., N)
        return out if self.bias is None else out + self.bias


def _rounded(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix as bytes, -127 to 127, and a scale per row (rows, 1)."""
    scales = matrix.abs().amax(dim=-1, keepdim=True).clamp_min(_LEAST) / _LARGEST
    return (matrix / scales).round().to(torch.int8), scales


def int8_model(config: ModelConfig, tensors: Mapping[str, Tensor]) -> Transformer:
    """Return the model with every matrix product in eight bits; the embedding stays fp32.

    One matrix is in memory as fp32 at a time.
    """
    model = empty_model(config)
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in linears:
        is_tied = name == "lm_head" and config.tie_word_embeddings
        weight = tensors["model.embed_tokens.weight" if is_tied else f"{name}.weight"].float()
        bias = tensors.get(f"{name}.bias")
        model.set_submodule(name, DynamicInt8(weight, bias))
    rest = {name: tensors[name].float() for name in model.state_dict()}
    model.load_state_dict(rest, assign=True)
    return model.eval()
