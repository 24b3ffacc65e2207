"""Scores by the first-order Taylor expansion of the loss: what it would change if a weight went.

Source: Molchanov et al. 2017, "Pruning Convolutional Neural Networks"; by weight as in Ma et al.
2023, "LLM-Pruner".
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgetiny.checkpoint import ModelConfig
from edgetiny.console import Task
from edgetiny.importance.scores import Scores, Sums, sum_over_others
from edgetiny.model import build_model
from edgetiny.train.loss import head_cross_entropy


def score(
    config: ModelConfig, tensors: Mapping[str, Tensor], windows: Tensor, task: Task | None = None
) -> Scores:
    """Return sum |weight x gradient| of each neuron's weights, summed over windows (N, T + 1).

    A window's gradient at a time: near a minimum their mean vanishes while each of them does not.
    A tied embedding has one gradient, of both its roles. The model is in memory in fp32.
    Raises CheckpointError if a weight or a gradient is not finite.
    """
    model = build_model(config, tensors, torch.float32).requires_grad_(True)
    sums = Sums(config)

    def watch(name: str, parameter: nn.Parameter) -> None:
        def add(_: Tensor) -> None:
            assert parameter.grad is not None
            sums.add(name, (parameter.detach() * parameter.grad).abs_(), sum_over_others)
            parameter.grad = None  # one gradient is in memory at a time

        parameter.register_post_accumulate_grad_hook(add)  # type: ignore[no-untyped-call]

    for name, parameter in model.named_parameters():
        watch(name, parameter)
    for window in windows:
        hidden = model.hidden(window[None, :-1]).flatten(0, 1)  # (T, D)
        loss = head_cross_entropy(hidden, model.lm_head.weight, window[1:])
        loss.backward()  # type: ignore[no-untyped-call]
        if task is not None:
            task.advance(1)
    return sums.scores()
