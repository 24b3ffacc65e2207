"""Engines that run a checkpoint or an artefact, behind one protocol of token ids and logits."""

from edgetiny.runtimes.eager import EagerRuntime
from edgetiny.runtimes.graph import GraphRuntime
from edgetiny.runtimes.open import RuntimeName, open_random, open_runtime
from edgetiny.runtimes.precision import compute_precision
from edgetiny.runtimes.protocol import Capabilities, Engine, Floats, Ids, Runtime

__all__ = [
    "Capabilities",
    "EagerRuntime",
    "Engine",
    "Floats",
    "GraphRuntime",
    "Ids",
    "Runtime",
    "RuntimeName",
    "compute_precision",
    "open_random",
    "open_runtime",
]
