"""Models without weights of their own, to measure a machine with: the paper's shape and smaller.

Speed depends on shapes and not on values, as the paper's own test shows (section 2.2: "a randomly
initialized model").
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from edgetiny.bench.int8 import int8_model
from edgetiny.checkpoint import ModelConfig
from edgetiny.cost import Precision, mean_context, run_memory
from edgetiny.design import Design
from edgetiny.init import RandomTensors
from edgetiny.measure import clock_ns
from edgetiny.model import KVCache, Transformer, build_model
from edgetiny.runtimes.precision import DTYPES

# Beyond this the first try of a new user would look like a hang.
SECONDS_AT_MOST = 150.0
# What the estimate leaves for the engine, the warm-up's buffers and other programs.
_MEMORY_SHARE = 0.8
_WARMUP_STEPS = 100
_PROBE_STEPS = 8
_STANDARD_DEVIATION = 0.02


DESIGNS = (
    Design(
        "random-952m",
        "20 layers x 1792 of the paper's Table 2",
        ModelConfig(
            vocab_size=48_000,
            hidden_size=1792,
            intermediate_size=4864,
            num_hidden_layers=20,
            num_attention_heads=14,
            num_key_value_heads=14,
            head_dim=128,
            tie_word_embeddings=False,
        ),
    ),
    Design(
        "random-111m",
        "20 layers x 640, as deep as the paper's 1B model",
        ModelConfig(
            vocab_size=16_000,
            hidden_size=640,
            intermediate_size=1776,
            num_hidden_layers=20,
            num_attention_heads=10,
            num_key_value_heads=10,
            head_dim=64,
        ),
    ),
    Design(
        "random-25m",
        "16 layers x 320, for small devices",
        ModelConfig(
            vocab_size=16_000,
            hidden_size=320,
            intermediate_size=864,
            num_hidden_layers=16,
            num_attention_heads=5,
            num_key_value_heads=5,
            head_dim=64,
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A design, and why not a larger one."""

    design: Design
    reason: str


def choose_design(
    designs: Sequence[Design],
    precision: Precision,
    batches: Sequence[int],
    prompt_tokens: int,
    new_tokens: int,
    repeats: int,
    available_bytes: int | None,
    seconds_at_most: float = SECONDS_AT_MOST,
) -> Choice:
    """Return the first of `designs` (largest first) that fits the memory and the patience.

    The time is that of one real layer and the head, timed here, times their number: a roofline
    alone promises several times what an engine reaches. The last design is taken in any case.
    """
    context = prompt_tokens + new_tokens
    skipped: list[str] = []
    for design in designs[:-1]:
        need = max(
            run_memory(
                design.config,
                precision,
                batch,
                context,
                kv_precision=_activations(precision),
            ).total
            for batch in batches
        )
        if available_bytes is not None and need > _MEMORY_SHARE * available_bytes:
            skipped.append(f"{design.name} needs {_gb(need)} of {_gb(available_bytes)} free")
            continue
        steps = new_tokens * repeats + _WARMUP_STEPS
        at_context = round(mean_context(prompt_tokens, new_tokens))
        seconds = steps * sum(
            probe_step_seconds(design.config, precision, batch, at_context) for batch in batches
        )
        if seconds <= seconds_at_most:
            return Choice(design, _reason(skipped, f"about {seconds:.0f} s of measuring"))
        skipped.append(f"{design.name} would take {seconds / 60:.0f} minutes")
    return Choice(designs[-1], _reason(skipped, "the smallest there is"))


def probe_step_seconds(
    config: ModelConfig, precision: Precision, batch: int, context: int
) -> float:
    """Estimate one decode step from the times of one layer and of the head, in seconds."""
    layer_only = replace(config, num_hidden_layers=1, vocab_size=32)
    model = random_model(layer_only, precision)
    dtype = DTYPES[_activations(precision)]
    head = torch.full((config.vocab_size, config.hidden_size), 0.5, dtype=dtype)
    tokens = torch.zeros(batch, 1, dtype=torch.int64)
    with torch.inference_mode():
        cache = KVCache(layer_only, batch, context + 1, dtype)
        layer_s, head_s = [], []
        for _ in range(_PROBE_STEPS):
            cache.lengths = torch.full((batch,), context)
            start = clock_ns()
            hidden = model.hidden(tokens, cache.append(tokens))
            middle = clock_ns()
            torch.nn.functional.linear(hidden, head).float().argmax(-1)
            layer_s.append((middle - start) / 1e9)
            head_s.append((clock_ns() - middle) / 1e9)
    # The fastest, since neighbours and page faults only ever slow a step.
    return config.num_hidden_layers * min(layer_s) + min(head_s)


def random_model(config: ModelConfig, precision: Precision) -> Transformer:
    """Return a decoder with normal weights (deviation 0.02), norms 1 and biases 0."""
    tensors = RandomTensors(config, std=_STANDARD_DEVIATION, seed=0)
    if precision == "int8":
        return int8_model(config, tensors)
    return build_model(config, tensors, DTYPES[precision])


def _activations(precision: Precision) -> Precision:
    return "fp32" if precision == "int8" else precision


def _reason(skipped: Sequence[str], chosen: str) -> str:
    return "; ".join([chosen, *skipped])


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
