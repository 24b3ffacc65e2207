"""One measured run: greedy decoding of a fixed length, every step on the clock.

The paper's protocol (section 2.2) is 510 new tokens after 2, batch 20. No token ends a sequence:
each run does the same work, and every token that is counted was computed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgetiny.errors import ArtefactError
from edgetiny.measure import clock_ns
from edgetiny.runtimes import Capabilities, Floats, Ids, Runtime

WARMUP_TOKENS = 32
WARMUP_RUNS_AT_MOST = 10
WARMUP_TOLERANCE = 0.05

Progress = Callable[[str, int], None]
"""Called with what is going on and how many measured tokens of each sequence are new since."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """What is run: `batch` prompts of random tokens, each continued by `new_tokens`."""

    batch: int
    prompt_tokens: int
    new_tokens: int
    repeats: int
    seed: int = 0

    @property
    def context(self) -> int:
        """Tokens that a sequence holds at the end."""
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True, slots=True)
class Run:
    """The times of one run. The prefill yields the first new token, each step one more."""

    prefill_ns: int
    step_ns: list[int]
    is_finite: bool

    @property
    def decode_ns(self) -> int:
        """Time of all steps after the prefill."""
        return sum(self.step_ns)

    @property
    def total_ns(self) -> int:
        """Time of the whole run, from the prompt to the last token."""
        return self.prefill_ns + self.decode_ns


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """The measured runs, and how the warm-up before them ended."""

    runs: list[Run]
    warmup_runs: int
    warmup_tokens: int
    warmup_is_stable: bool


def measure(runtime: Runtime, protocol: Protocol, progress: Progress) -> Timings:
    """Warm up until two short runs agree, then measure `protocol.repeats` whole runs.

    Raises ArtefactError if the runtime cannot hold the batch or the context.
    """
    check_capabilities(runtime.capabilities, protocol, str(runtime.path))
    prompt = _prompt(protocol, runtime.config.vocab_size)
    warmup_tokens = min(protocol.new_tokens, WARMUP_TOKENS)
    n_warmup, is_stable = _warm_up(runtime, prompt, warmup_tokens, progress)
    runs = []
    for number in range(1, protocol.repeats + 1):
        name = f"run {number} of {protocol.repeats}"
        runs.append(decode(runtime, prompt, protocol.new_tokens, lambda: progress(name, 1)))  # noqa: B023
    return Timings(
        runs=runs,
        warmup_runs=n_warmup,
        warmup_tokens=warmup_tokens,
        warmup_is_stable=is_stable,
    )


def decode(runtime: Runtime, prompt: Ids, new_tokens: int, on_token: Callable[[], None]) -> Run:
    """Continue `prompt` (B, T) greedily by `new_tokens` and return the times.

    Choosing the likeliest token is part of a step: no user goes without it.
    """
    lengths = np.full(len(prompt), prompt.shape[1], dtype=np.int64)
    start = clock_ns()
    logits = runtime.prefill(prompt, lengths)  # (B, V)
    tokens = _likeliest(logits)  # (B, 1)
    prefill_ns = clock_ns() - start
    on_token()
    step_ns = []
    for _ in range(new_tokens - 1):
        start = clock_ns()
        logits = runtime.step(tokens)[:, -1]  # (B, V)
        tokens = _likeliest(logits)
        step_ns.append(clock_ns() - start)
        on_token()
    return Run(prefill_ns, step_ns, bool(np.isfinite(logits).all()))


def check_capabilities(capabilities: Capabilities, protocol: Protocol, path: str) -> None:
    """Raise ArtefactError if the runtime cannot hold the batch or the context."""
    most = capabilities.max_batch
    if most is not None and protocol.batch > most:
        raise ArtefactError(
            f"{path} decodes at most {most} sequences together, not {protocol.batch};"
            f" give --batch {most} or less, or export it for a larger batch"
        )
    if protocol.context > capabilities.max_context:
        raise ArtefactError(
            f"{path} holds {capabilities.max_context} tokens, {protocol.prompt_tokens} +"
            f" {protocol.new_tokens} were asked for; give fewer --new-tokens"
        )


def _warm_up(
    runtime: Runtime, prompt: Ids, new_tokens: int, progress: Progress
) -> tuple[int, bool]:
    """Repeat short runs until two in a row agree; return how many, and whether they did."""
    before = None
    for number in range(1, WARMUP_RUNS_AT_MOST + 1):
        progress(f"warm-up {number}", 0)
        took = decode(runtime, prompt, new_tokens, lambda: None).total_ns
        if before is not None and abs(took - before) <= WARMUP_TOLERANCE * before:
            return number, True
        before = took
    return WARMUP_RUNS_AT_MOST, False


def _prompt(protocol: Protocol, vocab_size: int) -> Ids:
    random = np.random.default_rng(protocol.seed)
    shape = (protocol.batch, protocol.prompt_tokens)
    return random.integers(0, vocab_size, shape, dtype=np.int64)


def _likeliest(logits: Floats) -> Ids:
    tokens: Ids = logits.argmax(axis=-1)[:, None].astype(np.int64)  # (B, 1)
    return tokens
