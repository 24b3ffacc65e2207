"""The one artefact between stages: a Hugging Face-style folder, read and written whole."""

from edgetiny.checkpoint.folder import Checkpoint
from edgetiny.checkpoint.lazy import LazyTensors
from edgetiny.checkpoint.model_config import ModelConfig, RopeScaling, parameter_shapes
from edgetiny.checkpoint.write import write_checkpoint

__all__ = [
    "Checkpoint",
    "LazyTensors",
    "ModelConfig",
    "RopeScaling",
    "parameter_shapes",
    "write_checkpoint",
]
