"""Random weights: a checkpoint of any shape, by seed and by scheme."""

from edgetiny.init.deviation import deviation
from edgetiny.init.stage import default_ffn_width, model_config_for, run
from edgetiny.init.tensors import RandomTensors

__all__ = [
    "RandomTensors",
    "default_ffn_width",
    "deviation",
    "model_config_for",
    "run",
]
