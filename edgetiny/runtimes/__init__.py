"""Engines that run a checkpoint or an artefact, behind one protocol of token ids and logits."""

from edgetiny.runtimes.eager import EagerRuntime
from edgetiny.runtimes.open import open_runtime
from edgetiny.runtimes.protocol import Capabilities, Engine, Floats, Ids, Runtime

__all__ = [
    "Capabilities",
    "EagerRuntime",
    "Engine",
    "Floats",
    "Ids",
    "Runtime",
    "open_runtime",
]
