"""AdamW over a model's parameters, and its moments as named tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor

from edgetiny.config.train import TrainConfig
from edgetiny.errors import CheckpointError
from edgetiny.model import Transformer

_EPS = 1e-8
_MOMENTS = ("exp_avg", "exp_avg_sq")


def make_optimizer(model: Transformer, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW that decays matrices and leaves norms and biases alone."""
    parameters = list(model.parameters())
    groups = [
        {
            "params": [each for each in parameters if each.ndim >= 2],
            "weight_decay": config.weight_decay,
        },
        {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, eps=_EPS, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the learning rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def moments(model: Transformer, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return both moments of every parameter, `exp_avg.NAME` and `exp_avg_sq.NAME`.

    Empty before the first step: there are none yet.
    """
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        for moment in _MOMENTS
        if parameter in optimizer.state
    }


def restore_moments(
    model: Transformer,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    step: int,
) -> None:
    """Put the moments back, after `step` steps. Raises CheckpointError if they do not fit."""
    if step == 0:
        return
    for name, parameter in model.named_parameters():
        state = {"step": torch.tensor(float(step), device=parameter.device)}
        for moment in _MOMENTS:
            tensor = tensors.get(f"{moment}.{name}")
            if tensor is None or tensor.shape != parameter.shape:
                raise CheckpointError(
                    f"the training state lacks {moment} of {name}, or has it in another shape;"
                    " start again with --overwrite"
                )
            # A copy: what was read may be a memory map of the file that the next save replaces.
            state[moment] = tensor.to(parameter.device, copy=True)
        optimizer.state[parameter] = state
