"""Whether an engine ran the model that it was given: its first ids under the fp32 reference.

Random weights make near ties, so that a quantized engine soon says other words; but what it says
stays among the likeliest. A wrong engine's choice lies some four deviations below the best logit.
"""

from collections.abc import Sequence

import numpy as np

from edgetiny.runtimes import Runtime

# In deviations of the logits. Quantized to 4 bits, right engines stay well below.
SUSPICIOUS = 2.0


def mean_gap(reference: Runtime, prompt: Sequence[int], ids: Sequence[int]) -> float:
    """Return how far below the best logit the chosen ones lie, in deviations, on average.

    The reference reads the engine's own words, so one different choice does not spoil the rest.
    """
    first = reference.prefill(np.array([prompt]), np.array([len(prompt)]))  # (1, V)
    rest = reference.step(np.array([ids[:-1]]))[0]  # (K - 1, V)
    logits = np.concatenate([first, rest])  # (K, V)
    chosen = logits[np.arange(len(ids)), list(ids)]
    return float(np.mean((logits.max(axis=1) - chosen) / logits.std(axis=1)))
