"""Text out of a model: sampling, streaming, stopping."""

from edgetiny.generate.stage import run
from edgetiny.generate.stream import Reply, Sampling, prompt_ids, sample_next, stream

__all__ = ["Reply", "Sampling", "prompt_ids", "run", "sample_next", "stream"]
