"""One measured run: greedy decoding of a fixed length, every step on the clock.

The paper's protocol (section 2.2) is 510 new tokens after 2, batch 20. No token ends a sequence:
each run does the same work, and every token that is counted was computed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgetiny.errors import ArtefactError
from edgetiny.measure import (
    EnergyMeter,
    clock_ns,
    cpu_frequency_hz,
    cuda_frequency_hz,
    cuda_temperature_celsius,
    temperature_celsius,
)
from edgetiny.runtimes import Capabilities, Floats, Ids, Runtime

WARMUP_TOKENS = 32
WARMUP_RUNS_AT_MOST = 10
WARMUP_TOLERANCE = 0.05

Progress = Callable[[str, int], None]
"""Called with what is going on and how many measured tokens of each sequence are new since."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """What is run: `batch` prompts of random tokens, each continued by `new_tokens`.

    depth: tokens that stand in the cache before a run's clock starts (llama-bench's n_depth).
    sustained_minutes: how long runs go on after the repeats, to see the speed change.
    """

    batch: int
    prompt_tokens: int
    new_tokens: int
    repeats: int
    depth: int = 0
    sustained_minutes: float = 0.0
    seed: int = 0

    @property
    def context(self) -> int:
        """Tokens that a sequence holds at the end."""
        return self.depth + self.prompt_tokens + self.new_tokens


@dataclass(frozen=True, slots=True)
class Run:
    """The times of one run. The prefill yields the first new token, each step one more.

    energy_j: what the processor used; None where it cannot be read.
    """

    prefill_ns: int
    step_ns: list[int]
    is_finite: bool
    energy_j: float | None = None

    @property
    def decode_ns(self) -> int:
        """Time of all steps after the prefill."""
        return sum(self.step_ns)

    @property
    def total_ns(self) -> int:
        """Time of the whole run, from the prompt to the last token."""
        return self.prefill_ns + self.decode_ns


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of the sustained part: when it ended, its speed, and what the machine reported."""

    at_s: float
    tok_per_s_summed: float
    temperature_celsius: float | None
    frequency_hz: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """The measured runs, how the warm-up before them ended, and the sustained part after them."""

    runs: list[Run]
    sustained: list[Sample]
    warmup_runs: int
    warmup_tokens: int
    warmup_is_stable: bool


def measure(runtime: Runtime, protocol: Protocol, progress: Progress) -> Timings:
    """Warm up until two short runs agree, then measure `protocol.repeats` whole runs.

    Raises ArtefactError if the runtime cannot hold the batch or the context.
    """
    check_capabilities(runtime.capabilities, protocol, str(runtime.path))
    prompt = _random_tokens(protocol, protocol.prompt_tokens, runtime.config.vocab_size)
    if protocol.depth:
        progress(f"filling the cache with {protocol.depth} tokens", 0)
        past = _random_tokens(protocol, protocol.depth, runtime.config.vocab_size)
        runtime.prefill(past, _lengths(past))
    new, depth = protocol.new_tokens, protocol.depth
    warmup_tokens = min(new, WARMUP_TOKENS)
    n_warmup, is_stable = _warm_up(runtime, prompt, warmup_tokens, depth, progress)
    runs = []
    for number in range(1, protocol.repeats + 1):
        name = f"run {number} of {protocol.repeats}"
        runs.append(decode(runtime, prompt, new, lambda: progress(name, 1), depth))  # noqa: B023
    return Timings(
        runs=runs,
        warmup_runs=n_warmup,
        warmup_tokens=warmup_tokens,
        warmup_is_stable=is_stable,
        sustained=_sustain(runtime, prompt, protocol, progress),
    )


def decode(
    runtime: Runtime, prompt: Ids, new_tokens: int, on_token: Callable[[], None], depth: int = 0
) -> Run:
    """Continue `prompt` (B, T) greedily by `new_tokens` and return the times.

    Choosing the likeliest token is part of a step: no user goes without it.
    depth: tokens that every sequence holds already, and goes back to before the clock starts.
    """
    if depth:
        runtime.rewind(depth)
    energy = EnergyMeter()  # of CPU packages: it would leave out most of what another device takes
    energy.start()
    start = clock_ns()
    logits = _feed(runtime, prompt) if depth else runtime.prefill(prompt, _lengths(prompt))
    tokens = _likeliest(logits)  # (B, 1)
    prefill_ns = clock_ns() - start
    on_token()
    step_ns = []
    for _ in range(new_tokens - 1):
        start = clock_ns()
        before, tokens = tokens, runtime.greedy_step(tokens)  # (B, 1)
        step_ns.append(clock_ns() - start)
        on_token()
    used = energy.joules() if runtime.engine.device == "cpu" else None
    # The last step once more, off the clock: a greedy step shows no logits.
    runtime.rewind(depth + prompt.shape[1] + new_tokens - 2)
    return Run(prefill_ns, step_ns, bool(np.isfinite(runtime.step(before)).all()), used)


def check_capabilities(capabilities: Capabilities, protocol: Protocol, path: str) -> None:
    """Raise ArtefactError if the runtime cannot hold the batch or the context."""
    most = capabilities.max_batch
    if most is not None and protocol.batch > most:
        raise ArtefactError(
            f"{path} decodes at most {most} sequences together, not {protocol.batch};"
            f" give --batch {most} or less, or export it for a larger batch"
        )
    if protocol.context > capabilities.max_context:
        held = f"{protocol.depth} + " if protocol.depth else ""
        raise ArtefactError(
            f"{path} holds {capabilities.max_context} tokens, {held}{protocol.prompt_tokens} +"
            f" {protocol.new_tokens} were asked for; give fewer --new-tokens"
        )


def _feed(runtime: Runtime, prompt: Ids) -> Floats:
    """Append a prompt (B, T) to the sequences in progress; return the last logits (B, V)."""
    size = runtime.capabilities.max_step
    for start in range(0, prompt.shape[1], size):
        logits = runtime.step(prompt[:, start : start + size])[:, -1]  # (B, V)
    return logits


def _warm_up(
    runtime: Runtime, prompt: Ids, new_tokens: int, depth: int, progress: Progress
) -> tuple[int, bool]:
    """Repeat short runs until two in a row agree; return how many, and whether they did."""
    before = None
    for number in range(1, WARMUP_RUNS_AT_MOST + 1):
        progress(f"warm-up {number}", 0)
        took = decode(runtime, prompt, new_tokens, lambda: None, depth).total_ns
        if before is not None and abs(took - before) <= WARMUP_TOLERANCE * before:
            return number, True
        before = took
    return WARMUP_RUNS_AT_MOST, False


def _sustain(runtime: Runtime, prompt: Ids, protocol: Protocol, progress: Progress) -> list[Sample]:
    """Repeat whole runs until the time is over; the run that it ends in is finished."""
    samples: list[Sample] = []
    began = clock_ns()
    is_cuda = runtime.engine.device.startswith("cuda")
    while (elapsed_s := (clock_ns() - began) / 1e9) < 60 * protocol.sustained_minutes:
        progress(f"sustained, minute {elapsed_s / 60:.1f} of {protocol.sustained_minutes:g}", 0)
        run = decode(runtime, prompt, protocol.new_tokens, lambda: None, protocol.depth)
        samples.append(
            Sample(
                at_s=(clock_ns() - began) / 1e9,
                tok_per_s_summed=1e9 * protocol.batch * protocol.new_tokens / run.total_ns,
                temperature_celsius=(
                    cuda_temperature_celsius() if is_cuda else temperature_celsius()
                ),
                frequency_hz=cuda_frequency_hz() if is_cuda else cpu_frequency_hz(),
            )
        )
    return samples


def _random_tokens(protocol: Protocol, n_tokens: int, vocab_size: int) -> Ids:
    random = np.random.default_rng(protocol.seed)
    return random.integers(0, vocab_size, (protocol.batch, n_tokens), dtype=np.int64)


def _lengths(tokens: Ids) -> Ids:
    return np.full(len(tokens), tokens.shape[1], dtype=np.int64)


def _likeliest(logits: Floats) -> Ids:
    tokens: Ids = logits.argmax(axis=-1)[:, None].astype(np.int64)  # (B, 1)
    return tokens
