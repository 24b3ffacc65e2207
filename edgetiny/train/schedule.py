"""The learning rate of each step."""

import math

from edgetiny.config.train import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step, counted from 0.

    Linear warm-up to the peak over the first `warmup_fraction` of the steps, then half a cosine
    down to `final_lr_fraction` of the peak, reached by the last step.
    """
    warmup_steps = math.ceil(config.warmup_fraction * config.n_steps)
    if step < warmup_steps:
        return config.learning_rate * (step + 1) / warmup_steps
    last = max(1, config.n_steps - 1 - warmup_steps)
    progress = min(1.0, (step - warmup_steps) / last)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    final = config.final_lr_fraction
    return config.learning_rate * (final + (1 - final) * cosine)
